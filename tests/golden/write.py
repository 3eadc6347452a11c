"""Write the next version of every example that is missing or leaves a field out: `python -m tests.golden.write`."""

import base64
import json
import sys

from tests.golden.samples import FOLDER, as_json, decoded, event_types, newest, record_of, sample, unset


def main() -> None:
    """Write what is missing and say so."""
    for name, kind in sorted(event_types().items()):
        event, before = sample(kind), newest(name)
        if before is not None and set(unset(decoded(before))) <= set(unset(event)):
            continue
        record = record_of(event)
        envelope = as_json(record)
        del envelope["payload"]
        value = {
            "record": base64.b64encode(record.SerializeToString(deterministic=True)).decode(),
            "envelope": envelope,
            "event": as_json(event),
        }
        path = FOLDER / f"{name}.v{before.version + 1 if before else 1}.json"
        path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        sys.stdout.write(f"{path.name}\n")


if __name__ == "__main__":
    main()
