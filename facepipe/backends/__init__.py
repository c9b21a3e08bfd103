"""Adapters to models: detectors, landmarkers, embedders. Each takes and gives numpy arrays."""
