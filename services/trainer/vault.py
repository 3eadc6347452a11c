"""Read protected attributes for an evaluation, from the vault of ingest. They stay in this process's memory."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from chassis.ids import request_id_from
from lineal.api.ingest.v1 import vault_service_pb2 as api
from lineal.calls import Services
from lineal.errors import CallFailed
from lineal.frames import batches
from lineal.profile import Profile

_DEADLINE_SECONDS = 60.0


class VaultUnreadable(ValueError):
    """The vault did not answer, so groups cannot be compared."""


def read(where: Mapping[str, Any], run_id: str, row_keys: pa.Table, rows: npt.NDArray[np.int64]) -> pa.Table:
    """Return the protected attributes of some rows. Raises VaultUnreadable.

    `where` has the vault's `address`, the `dataset` and `as_of_position`. The run's id is the purpose that is recorded.
    """
    found = []
    with Services(Profile({"ingest": where["address"]}), _DEADLINE_SECONDS) as services:
        for number, piece in enumerate(batches(row_keys.take(pa.array(rows)))):
            request = api.ReadProtectedValuesRequest(
                request_id=request_id_from(run_id, f"vault/{number}"),
                dataset=where["dataset"],
                as_of_position=where["as_of_position"],
                purpose=f"evaluation of run {run_id} on untouched rows",
                arrow=piece,
            )
            try:
                answer = services.vault.call("ReadProtectedValues", request)
            except CallFailed as error:
                raise VaultUnreadable(f"protected attributes cannot be read for the evaluation: {error}") from error
            found.append(pa.ipc.open_stream(io.BytesIO(answer.arrow)).read_all())
    return pa.concat_tables(found)
