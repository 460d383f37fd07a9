"""An image marked by hand, without the run that would follow."""

from itertools import count

from tasks.registry import stage

NIGHTS = count(1)
"""Every commit of other content has a fingerprint of its own."""


def mark(store, row, label):
    """Let `label`, (y, x) uint8, be what a person marked of an image: 255 where nothing. row: of the index."""
    receipt, specs = store.receipt("ingest", row["block"]), stage("ingest").writes
    values = {spec.name: store.read(receipt, spec.name) for spec in specs}
    values["annotation"][row["place"], : row["height"], : row["width"]] = label
    store.commit("ingest", row["block"], f"{next(NIGHTS):032x}", specs, values, reasons=receipt.reasons, attributes={},
                 failed=receipt.failed, seconds=0.1)  # fmt: skip
