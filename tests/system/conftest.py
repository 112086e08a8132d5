from tiny_run import overrides, refused, spans_folder, threads, train  # noqa: F401
