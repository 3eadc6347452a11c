# %% [markdown]
"""Lineal from a notebook: DataFrames go in, DataFrames come out.

Needs a running Lineal (`lineal up`). Open it where `# %%` makes cells, or run it: `python -m examples.shop.notebook`.
"""

import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
from rich import print as show

import lineal
from lineal.trace import trace

client = lineal.connect()

# %% Declare datasets, features, model and endpoint; again changes nothing
client.apply(Path(__file__).parent)

# %% Two thousand orders, and what became of each a week later
generator = np.random.default_rng(7)
count = 2000
orders = pd.DataFrame(
    {
        "order_id": [f"o{number}" for number in range(count)],
        "customer": generator.choice([f"c{number}" for number in range(40)], count),
        "amount": generator.gamma(2.0, 40.0, count).round(2),
        "country": generator.choice(["AT", "DE", "FR"], count),
        "placed": pd.Timestamp("2026-01-01", tz="UTC") + pd.to_timedelta(np.arange(count) * 30, unit="min"),
    }
)
careless = orders["customer"].isin([f"c{number}" for number in range(8)])
chance = 1 / (1 + np.exp(-(orders["amount"] / 40 - 4 + 3 * careless)))
payments = pd.DataFrame(
    {
        "order_id": orders["order_id"],
        "customer": orders["customer"],
        "unpaid": (generator.random(count) < chance).astype(float),
        "settled": orders["placed"] + timedelta(days=7),
    }
)
show(client.ingest("orders", orders, batch_id="first orders"))
show(client.outcomes("payments", payments, batch_id="first payments"))

# %% Train on them, and release what comes of it
for saga in client.watch_saga(client.train("unpaid", reason="the notebook")):
    show(saga.steps[-1].finding if saga.steps else "asked for")
show(saga.outcome)

# %% Predict new orders: the customer's past is looked up by the customer's name
new = orders.tail(20).assign(order_id=[f"n{number}" for number in range(20)]).drop(columns="placed")
now = payments["settled"].max().to_pydatetime()
answers = client.predict("unpaid", new, key="order_id", event_time=now)
show(answers[["prediction_id", "score", "decision", "arm"]].head())

# %% A week later their payments are known, too
late = pd.DataFrame(
    {
        "order_id": new["order_id"].to_numpy(),
        "customer": new["customer"].to_numpy(),
        "unpaid": (answers["score"].to_numpy() > 0.5).astype(float),
        "settled": pd.Timestamp(now) + timedelta(days=7),
    }
)
known = client.outcomes("payments", late, batch_id="late payments")
recorded = client.predictions("unpaid", min_position=known.position)
end = time.monotonic() + 60
while not answers["prediction_id"].isin(recorded["prediction_id"]).all() and time.monotonic() < end:
    time.sleep(0.1)  # between two looks: serving has each on its disk, and sends them to monitor in batches
    recorded = client.predictions("unpaid", min_position=known.position)
show(recorded.head())

# %% Where one answer comes from, and the rows that its model learnt from
behind = trace(client.services, answers["prediction_id"][0])
rows = client.training_set(behind.training_set.digest)
show(behind.bundle.digest, behind.run.run_id, len(rows))
show(rows.head())

# %%
client.close()
