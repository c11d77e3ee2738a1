"""Evaluation: one judge of samples, whose figures have one vocabulary (`figures`).

Features (a data set's own classifier, the network of an extractor, or raw entries) meet statistics (`mmdflow.metrics`) in three
selections: `judge` compares images with a reference, `samples` compares samples with training and held-out data, `distance` is
the single number of tables. `models` draws a model's samples for them, `protocols` names references, `page` shows a judgement.
"""
