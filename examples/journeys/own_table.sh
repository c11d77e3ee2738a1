#!/usr/bin/env bash
# A practitioner: a table of 5 000 rows and 50 columns, with ids, is moved onto another; later rows follow. Three commands.
#   bash examples/journeys/own_table.sh
set -eu

# In place of your own files: batch.csv and later.csv (ids, numbers, a note) and reference.csv
python - <<'END'
import numpy as np

rng = np.random.default_rng(0)
mix = rng.normal(size=(50, 50)) / 7
for name, rows, gain, offset in (("batch", 5000, 1.4, 1.0), ("later", 200, 1.4, 1.0), ("reference", 5000, 1.0, 0.0)):
    table = rng.normal(size=(rows, 50)) @ mix * gain + offset
    with open(f"{name}.csv", "w") as file:
        print("sample_id", *[f"gene_{i}" for i in range(50)], "note", sep=",", file=file)
        for i in rng.permutation(rows):
            print(f"{name}-{i}", *table[i].round(5), "kept", sep=",", file=file)
END

# All rows come back in their order, with ids and notes; rows that arrived later follow the same flow
mmdflow flow --source batch.csv --target reference.csv --save moved.csv --apply later.csv --num_steps=100
# Can one tell the moved rows from the reference? Before and after, by a test on 1 000 rows of each
python - <<'END'
import numpy as np
from mmdflow.metrics import mmd_test

reference, batch, moved = (np.loadtxt(f"{name}.csv", delimiter=",", skiprows=1, usecols=range(1, 51)) for name in ("reference", "batch", "moved"))
for name, rows in (("before", batch), ("after", moved)):
    print(name, "MMD^2 = %.5f, p = %.3f" % mmd_test(rows[:1000], reference[:1000]))
END
