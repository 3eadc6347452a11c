"""Predict, two hours before departure, which flights out of New York arrive late."""
