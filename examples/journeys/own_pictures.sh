#!/usr/bin/env bash
# Someone with a folder of pictures: a model of them, samples, samples of a class, a report. Five commands; four minutes of
# training, and about one besides.
#   bash examples/journeys/own_pictures.sh
set -eu

# In place of your own folder: 1 797 handwritten digits in pictures/0 ... pictures/9, a folder a class
python - <<'END'
from pathlib import Path
from PIL import Image
from mmdflow.data import load

digits = load("digits")
for part, images, labels in (("a", digits.train, digits.train_labels), ("b", digits.test, digits.test_labels)):
    for i, (image, label) in enumerate(zip((127.5 - 127.5 * images[:, 0]).byte().numpy(), labels.tolist())):
        folder = Path("pictures", str(label))
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).resize((20, 20)).save(folder / f"{part}{i}.png")
END

mmdflow train dmmd-thumbnails --data=pictures --training.max_seconds=240 --output=runs/mine
mmdflow sample runs/mine -n 64 -o grid.png
mmdflow sample runs/mine -n 64 -o threes.png --labels=3
mmdflow evaluate runs/mine
