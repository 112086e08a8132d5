"""What the page of answers adds to the report's style sheet, and the script that asks without loading the page anew."""

STYLE = """
main.ask{max-width:860px}main.ask.two{max-width:1120px}
form{position:sticky;top:0;z-index:1;display:flex;gap:10px;margin:0 0 22px;padding:12px 0;background:var(--page)}
form input{flex:1;min-width:0;font:20px/1.4 Georgia,"Times New Roman",serif;color:var(--ink);background:var(--card);
border:1px solid var(--line);border-radius:10px;padding:12px 16px}
form input::placeholder{color:var(--soft);opacity:.8}
form button{font:600 15px/1 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;color:var(--page);
background:var(--c1);border:0;border-radius:10px;padding:0 24px;cursor:pointer}
form[aria-busy=true] button{opacity:.55;cursor:progress}
:focus-visible{outline:2px solid var(--c1);outline-offset:2px;border-radius:4px}
.answered{padding-bottom:14px}
.answered h2{font-size:19px;margin:0 0 2px;color:var(--soft);font-weight:400}
.answered .sides{margin-top:0;gap:0 36px}.answered .sides.one{grid-template-columns:1fr}
.answer-line{font:600 clamp(22px,3vw,28px)/1.25 Georgia,"Times New Roman",serif;margin:2px 0 10px;
overflow-wrap:anywhere}
.answer-line small{font:14px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;color:var(--soft);margin-left:10px;
font-variant-numeric:tabular-nums;white-space:nowrap}
.answer-line.guess{font-style:italic;font-weight:400}.answer-line.none{color:var(--soft);font-weight:400}
.remark{font-size:13.5px;color:var(--soft);margin:-4px 0 10px}
.remark code{font-size:12.5px;overflow-wrap:anywhere}
.answered li{font-size:14.5px;line-height:1.5;padding:7px 0}
.answered li+li{border-top:1px solid var(--line)}
.answered summary{-webkit-line-clamp:5}
.answered summary b{display:block;font-weight:600}
.answered mark{padding:1px 3px}.answered li:not(.source-of) mark{background:none;padding:0;
text-decoration:underline 2px color-mix(in srgb,var(--c2) 70%,transparent);text-underline-offset:3px}
.answered .null{font-size:13.5px}
.problem{color:var(--bad);margin:0 0 18px}
.key .prior,.key .posterior{display:inline-block;width:26px;margin-right:7px;vertical-align:2px}
kbd{font:12px ui-monospace,monospace;border:1px solid var(--line);border-radius:4px;padding:1px 5px}
@media (max-width:720px){form button{padding:0 16px}.answer-line small{display:block;margin:2px 0 0;white-space:normal}
.answered li{grid-template-columns:92px minmax(0,1fr)}}
@media print{form,.keys{display:none}}
"""

SCRIPT = """
"use strict";
const form = document.querySelector("form"), box = form.elements.question, button = form.querySelector("button");
const answers = document.querySelector("#answers");
const asked = [...document.querySelectorAll(".answered")].map(card => card.dataset.question);
let back = asked.length;

function problem(text) {
  document.querySelectorAll(".problem").forEach(old => old.remove());
  if (!text) return;
  const line = document.createElement("p");
  line.className = "problem";
  line.setAttribute("role", "alert");
  line.textContent = text;
  answers.before(line);
}

async function ask(question) {
  const address = "/?question=" + encodeURIComponent(question);
  form.setAttribute("aria-busy", "true");
  button.disabled = true;
  try {
    const reply = await fetch(address);
    const page = new DOMParser().parseFromString(await reply.text(), "text/html");
    const card = page.querySelector(".answered"), said = page.querySelector(".problem");
    problem(card ? "" : said ? said.textContent : "The server could not answer; its terminal says why.");
    if (card) {
      document.querySelector(".first")?.remove();
      answers.prepend(card);
      document.title = page.title;
      history.replaceState(null, "", address);
    }
  } catch {
    problem("The server does not answer. Is it still running?");
  }
  form.removeAttribute("aria-busy");
  button.disabled = false;
  box.select();
}

form.addEventListener("submit", event => {
  event.preventDefault();
  const question = box.value.trim();
  if (!question || button.disabled) return;
  if (asked.at(-1) !== question) asked.push(question);
  back = asked.length;
  ask(question);
});

box.addEventListener("keydown", event => {
  const step = {ArrowUp: -1, ArrowDown: 1}[event.key];
  if (!step || event.isComposing) return;
  event.preventDefault();
  back = Math.min(Math.max(back + step, 0), asked.length);
  box.value = asked[back] ?? "";
});

document.addEventListener("keydown", event => {
  if (event.key !== "/" || event.target === box || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  box.focus();
  box.select();
});
"""
