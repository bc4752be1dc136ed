"""Events that the tests publish."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

import msgspec
import pydantic

from ebus.bus import event


class OrderEvent(msgspec.Struct, frozen=True):
    order: str


@event("order.placed")
class Placed(OrderEvent, frozen=True):
    cents: int = 0


@event("order.shipped")
class Shipped(OrderEvent, frozen=True):
    carrier: str = "post"


@event("counted")
class Counted(msgspec.Struct, frozen=True):
    number: int


@dataclass
class Weighed:
    order: str
    kilos: Decimal
    at: datetime


@event("order.returned", version=3)
class Returned(pydantic.BaseModel):
    order: str
    at: datetime
    price: Decimal = pydantic.Field(alias="unitPrice")
