"""Commands: a user's mistake is one line that names the mend; a bug keeps its traceback; Hydra leaves no files."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore
from hydra.utils import instantiate
from omegaconf import DictConfig

from realm_train import command as commands
from realm_train.command import command, compose, package_folder, resolved, to_overrides
from realm_train.errors import BadInput

ROOT = Path(__file__).resolve().parent.parent

FILES = {
    "prep/passages.yaml": "defaults: [{source: small}, _self_]\nout: folder\nshow: 0\n",
    "prep/source/small.yaml": "path: small.json\n",
    "prep/source/jsonl.yaml": "path: ???\n",
    "report.yaml": "run: null\nruns: []\n",
    "train.yaml": "defaults: [_self_, {experiment: null}]\nname: realm\n"
    "pretrain: {steps: 10, rate: 0.1}\nict: {steps: 5}\n",
    "experiment/quickstart.yaml": "# @package _global_\nname: quickstart\n",
    "experiment/broken.yaml": "# @package _global_\nname: [unclosed\n",
}


@pytest.fixture
def conf(tmp_path, monkeypatch) -> Path:
    for name, text in FILES.items():
        path = tmp_path / "conf" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(commands, "CONF", tmp_path / "conf")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # so that what the command sets ends with the test
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "conf"


@pytest.fixture
def run(conf, monkeypatch):
    """Runs a command line in this process: the configs that main saw."""

    def run(config: str, *argv: str, body=lambda cfg: None) -> list[dict]:
        seen = []

        @command(config)
        def main(cfg: DictConfig) -> None:
            body(cfg)
            seen.append(resolved(cfg))

        monkeypatch.setattr(sys, "argv", ["command", *argv])
        main()
        return seen

    return run


@pytest.fixture
def refusal(run, capsys):
    """Runs a command line that must end in one line on stderr and exit code 2: that line."""

    def refusal(config: str, *argv: str, body=lambda cfg: None) -> str:
        with pytest.raises(SystemExit) as ended:
            run(config, *argv, body=body)
        captured = capsys.readouterr()
        assert ended.value.code == 2
        assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
        return captured.err.removeprefix("error: ").rstrip("\n")

    return refusal


def test_main_gets_the_config_of_its_file(run):
    assert run("train") == [{"name": "realm", "pretrain": {"steps": 10, "rate": 0.1}, "ict": {"steps": 5}}]


def test_overrides_groups_and_experiments(run):
    assert run("prep/passages", "source=jsonl", "source.path=a.jsonl")[0]["source"] == {"path": "a.jsonl"}
    assert run("train", "experiment=quickstart", "pretrain.steps=3")[0] == {
        "name": "quickstart",
        "pretrain": {"steps": 3, "rate": 0.1},
        "ict": {"steps": 5},
    }


def test_a_config_passed_in_reaches_main_as_it_is(conf):
    seen = []
    command("train")(seen.append)(cfg := compose("train"))
    assert seen == [cfg]


def test_compose_is_what_the_command_gets(run, conf):
    overrides = ("source=jsonl", "source.path=x")
    assert resolved(compose("prep/passages", *overrides)) == run("prep/passages", *overrides)[0]


def test_hydra_writes_nothing(run, tmp_path):
    run("train")
    assert list((tmp_path / "work").iterdir()) == []


def test_a_sweep_runs_every_job(run):
    assert [seen["pretrain"]["steps"] for seen in run("train", "-m", "pretrain.steps=1,2")] == [1, 2]


@pytest.fixture
def process(conf, tmp_path):
    """Runs `main` as a script of its own."""

    def process(body: str, *argv: str) -> subprocess.CompletedProcess:
        script = tmp_path / "script.py"
        script.write_text(
            "from pathlib import Path\nfrom realm_train import command\n"
            f"command.CONF = Path({str(conf)!r})\n"
            f"@command.command('train')\ndef main(cfg):\n    {body}\nmain()\n"
        )
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run([sys.executable, str(script), *argv], env=environment, capture_output=True, text=True)

    return process


@pytest.mark.parametrize(
    "flags, shown",
    [(["--help"], "Powered by Hydra"), (["--cfg", "job"], "steps: 10"), (["--info", "searchpath"], "provider")],
)
def test_hydras_own_flags_stay(process, flags, shown):
    done = process("print('main ran')", *flags, "name=other")
    assert done.returncode == 0
    assert shown.lower() in done.stdout.lower()
    assert "main ran" not in done.stdout


def test_a_bug_keeps_its_traceback(process):
    done = process("return {}['the bug']")
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "return {}['the bug']" in done.stderr and "KeyError" in done.stderr


def test_a_mistake_is_exit_code_2_and_nothing_on_stdout(process):
    done = process("pass", "nmae=x")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: no key 'nmae'; did you mean 'name'?\n"


@pytest.mark.parametrize(
    "argv, flags, overrides",
    [
        (["--show", "5"], [], ["show=5"]),
        (["--show=5"], [], ["show=5"]),
        (["--max-length", "64", "out=x"], [], ["max_length=64", "out=x"]),
        (["--offline", "out=x"], [], ["offline=true", "out=x"]),
        (["--offline", "-m"], ["-m"], ["offline=true"]),
        (["a=1", "--cfg", "job", "b=2"], ["--cfg", "job"], ["a=1", "b=2"]),
        (["--shift", "-5"], [], ["shift=-5"]),
        (["~source", "+a=1", "++b=2"], [], ["~source", "+a=1", "++b=2"]),
        (["-m", "-cd", "elsewhere", "a=1,2"], ["-m", "-cd", "elsewhere"], ["a=1,2"]),
    ],
)
def test_words_become_flags_and_overrides(argv, flags, overrides):
    assert to_overrides(argv, takes_paths=False) == (flags, overrides)


@pytest.mark.parametrize("name", ["plain", "with space", "it's", "a,b", "rate=0.1", "dé-1", "back\\slash", "$dollar"])
def test_paths_of_runs_arrive_unchanged(run, name):
    Path(name).mkdir()
    assert run("report", name)[0]["runs"] == [name]


def test_several_runs_and_overrides_mix(run):
    Path("a").mkdir()
    Path("b").mkdir()
    assert run("report", "a", "run=x", "b") == [{"run": "x", "runs": ["a", "b"]}]


def test_a_path_that_is_not_there(refusal):
    assert refusal("report", "nowhere") == "got 'nowhere', expected key=value or the folder of a run"
    assert refusal("train", "nowhere") == "got 'nowhere', expected key=value"


@pytest.mark.parametrize(
    "config, override, said",
    [
        ("train", "pretrain.stepz=3", "no key 'pretrain.stepz'; did you mean 'pretrain.steps'?"),
        ("train", "steps=3", "no key 'steps'; did you mean 'pretrain.steps' or 'ict.steps'?"),
        ("train", "ict.stepz=3", "no key 'ict.stepz'; did you mean 'ict.steps'?"),
        ("train", "ict.rate=3", "no key 'ict.rate'; did you mean 'pretrain.rate'?"),
        ("train", "stepz=3", "no key 'stepz'; did you mean 'pretrain.steps' or 'ict.steps'?"),
        ("train", "experimnt=quickstart", "no key 'experimnt'; did you mean 'experiment'?"),
        ("train", "zzz=3", "no key 'zzz'; there are: name, pretrain, ict"),
        ("train", "experiment=quickstrat", "no experiment=quickstrat; there are: quickstart, broken"),
        ("prep/passages", "source=wiki", "no source=wiki; there are: jsonl, small"),
        ("prep/passages", "source=3", "Config group override must be a string"),
        ("prep/passages", "source=jsonl", "no value for source.path; give it as source.path=…"),
        ("prep/passages", "out=[1", "cannot read 'out=[1'"),
        ("prep/passages", "out=a,b", "Ambiguous value for argument 'out=a,b'"),
        ("prep/passages", "out=${nope}", "Interpolation key 'nope' not found"),
        ("prep/passages", "out=${package:no_such_package}", "the package no_such_package is not installed; install it"),
        ("train", "experiment=broken", 'experiment/broken.yaml", line'),
    ],
)
def test_a_mistake_in_the_configuration_is_one_line(refusal, config, override, said):
    assert said in refusal(config, override)


def test_a_value_of_the_wrong_type_names_the_override(refusal, conf):
    @dataclass
    class Schema:
        steps: int = 3

    ConfigStore.instance().store("typed_schema", Schema)
    (conf / "typed.yaml").write_text("defaults: [typed_schema, _self_]\n")
    said = refusal("typed", "steps=many")
    assert "steps=many" in said and "could not be converted to Integer" in said


def test_bad_input_is_its_message_alone(refusal):
    def body(cfg):
        raise BadInput("docs.jsonl, line 3: not JSON\nmend it")

    assert refusal("train", body=body) == "docs.jsonl, line 3: not JSON mend it"


def refuses(path: str) -> None:
    raise BadInput(f"{path}: empty")


def has_a_bug(path: str) -> None:
    raise TypeError("bug")


def instantiating(target: str, **settings):
    return lambda cfg: instantiate({"_target_": target, **settings})


def test_bad_input_inside_instantiate_is_unwrapped(refusal):
    assert refusal("train", body=instantiating(f"{__name__}.refuses", path="x")) == "x: empty"


def test_settings_that_do_not_fit_their_target(refusal):
    said = refusal("train", body=instantiating(f"{__name__}.refuses", pth="x"))
    assert "refuses() got an unexpected keyword argument 'pth'" in said and "settings" in said


def test_a_target_that_does_not_exist(refusal):
    assert "no_such_module" in refusal("train", body=instantiating("no_such_module.Thing"))


def test_a_bug_in_a_target_is_not_hidden(run):
    with pytest.raises(Exception, match="bug"):
        run("train", body=instantiating(f"{__name__}.has_a_bug", path="x"))


def test_a_key_that_the_code_mistypes_is_a_bug(run):
    with pytest.raises(AttributeError, match="nope"):
        run("train", body=lambda cfg: cfg.nope)


def test_ctrl_c_ends_in_one_line(run, capsys):
    def body(cfg):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        run("train", body=body)
    assert ended.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_package_is_found_without_importing_it(tmp_path, monkeypatch):
    package = tmp_path / "explodes_on_import"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert package_folder("explodes_on_import", "model") == str(package / "model")
    with pytest.raises(BadInput, match="no such file"):
        package_folder("explodes_on_import", "data")
