"""The one exception that a user should ever see: it says what was got, what was expected, and what to do."""


class BadInput(ValueError):
    """A mistake outside the code (a file, a value, a folder); commands print its message alone, without a traceback."""
