"""Draws that are a hash of a seed and of what is drawn: the same in any order of rows."""

import ibis
import ibis.expr.types as ir


def draw(seed: int, *columns: ir.Column) -> ir.StringValue:
    """32 hexadecimal digits, evenly spread; MD5 because every engine has it, and none differs."""
    text = ibis.literal(str(seed))
    for column in columns:
        text = text + ibis.literal("\x1f") + column
    return text.hexdigest("md5")


def below(drawn: ir.StringValue, share: float) -> ir.BooleanValue:
    """True for this share of draws: digits in order compare as the numbers they write."""
    return drawn < f"{int(share * 16**13):013x}"
