"""Evaluation: one judge of samples, whose figures have one vocabulary (`figures`).

Features (of a data set's own judges, the network of an extractor, or raw entries) meet statistics (`mmdflow.metrics`) in three
selections: `judge` compares images with a reference, `samples` compares samples with training and held-out data, `distance` is
the single number of tables. `data_judges` are a data set's own: one to choose by, two to report by. `models` draws a model's
samples for them, `protocols` names references, `page` shows a judgement.
"""
