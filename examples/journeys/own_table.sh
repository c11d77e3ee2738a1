#!/usr/bin/env bash
# A practitioner: a table of 5 000 rows and 50 columns, with ids, is moved onto another; later rows follow. Four commands.
#   bash examples/journeys/own_table.sh   (a minute of one core)
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

# All rows come back in their order, with ids and notes. 4 000 rows of the reference are the target; the others test the result.
# Rows that arrived later follow the same flow.
mmdflow flow --source batch.csv --target reference.csv --save moved.csv --apply later.csv --num_targets=4000 --num_steps=100
# Row for row the same ids?
cut -d, -f1,52 batch.csv > ids.csv
cut -d, -f1,52 moved.csv | diff ids.csv - && echo "ids and notes as they were"
