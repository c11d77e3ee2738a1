"""Evaluation: the judge of samples, its references and protocols, its report."""
