"""What a DMMD knows of its target at each noise level: mean features, samples, or a learned witness."""
