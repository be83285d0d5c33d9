"""Text from outside, made fit to be carried on."""


def readable(text: str) -> str:
    r"""Return the text with lone surrogates escaped, which no encoding of Unicode can hold.

    They stand for bytes of a file name that are no UTF-8, or come out of a JSON string such as "\ud800".
    """
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")
