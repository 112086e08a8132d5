from tiny_run import before_step, opened, overrides, refused, spans_folder, threads, train  # noqa: F401
