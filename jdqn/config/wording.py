"""How values and sentences are shown: short, and on one line whatever is in them."""

import datetime
import reprlib

LONGEST_SENTENCE = 400  # characters


class _Short(reprlib.Repr):
    """`repr`, shortened, with booleans and dates as TOML writes them."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxstring = 60
        self.maxother = 60

    def repr_int(self, value: int, level: int) -> str:
        """Digits, or hexadecimal ones where Python refuses to write so many."""
        try:
            return super().repr_int(value, level)
        except ValueError:
            digits = hex(value)
            return f"{digits[:20]}...{digits[-20:]}"

    def repr_bool(self, value: bool, _: int) -> str:
        """`true` or `false`."""
        return str(value).lower()

    def repr_date(self, value: datetime.date, _: int) -> str:
        """ISO 8601."""
        return value.isoformat()

    repr_datetime = repr_date

    def repr_time(self, value: datetime.time, _: int) -> str:
        """ISO 8601."""
        return value.isoformat()


shown = _Short().repr


def one_line(sentence: str) -> str:
    """A sentence with its control characters escaped, its middle left out where it is long."""
    escaped = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in sentence
    )
    if len(escaped) <= LONGEST_SENTENCE:
        return escaped
    half = LONGEST_SENTENCE // 2
    return f"{escaped[:half]} ... {escaped[-half:]}"
