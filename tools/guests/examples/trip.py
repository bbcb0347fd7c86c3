"""Plans a trip: reads offers, keeps the cheapest way to each city. `tools/up --demo` runs it."""

import json
import re
from dataclasses import asdict, dataclass

OFFER = re.compile(r"(?P<city>[A-Z][a-z]+) by (?P<way>train|plane|bus) for (?P<price>\d+)")


@dataclass(order=True)
class Offer:
    price: int
    city: str
    way: str


async def on_message(ctx, message):
    offers = ctx.state.setdefault("offers", [])
    if message == "plan":
        return json.dumps([asdict(offer) for offer in sorted(offers)])
    found = OFFER.fullmatch(message)
    if found is None:
        raise ValueError(f"not an offer: {message!r}")
    offers.append(Offer(int(found["price"]), found["city"], found["way"]))
    best = {}
    for offer in sorted(offers):
        best.setdefault(offer.city, offer)
    total = sum(offer.price for offer in best.values())
    return f"{len(best)} cities for {total}"
