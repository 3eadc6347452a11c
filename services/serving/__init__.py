"""The Open Inference Protocol, routing, explanations and prediction records."""
