"""How much a client likes what it names in `Accept` and in `Accept-Encoding`."""

from __future__ import annotations

import re
from collections.abc import Iterator

_WEIGHT = re.compile(r"q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")
_PARAMETER = re.compile(r"(?!q=)[^=\s]+=.+")
_BLANK = " \t"


def weighted(value: bytes, *, with_parameters: bool) -> Iterator[tuple[str, float]]:
    """Each entry in lower case, without its parameters, and its weight (RFC 9110, 12.4.2).

    The weight is 0 to 1, stands last, and is 1 when it is not said. An entry that is malformed
    has the weight 0. Other parameters may stand before it `with_parameters`, as media types have
    them; codings have none.
    """
    for entry in value.decode("latin-1").lower().split(","):
        name, *parameters = [part.strip(_BLANK) for part in entry.split(";")]
        weight = 1.0
        if parameters and (match := _WEIGHT.fullmatch(parameters[-1])):
            weight = float(match[1])
            del parameters[-1]
        if parameters and not (with_parameters and all(map(_PARAMETER.fullmatch, parameters))):
            weight = 0.0
        yield name, weight
