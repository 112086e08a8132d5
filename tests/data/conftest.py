from spanned import spanned  # noqa: F401
