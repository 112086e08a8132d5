from tiny_run import before_step, ends_in_one_line, opened, overrides, refused, spans_folder, threads, train  # noqa: F401
