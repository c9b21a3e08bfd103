"""The swap methods: each makes a `Patch` of a target face, which the composite puts into the frame."""
