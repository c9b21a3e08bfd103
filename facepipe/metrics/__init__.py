"""Every number that facepipe prints: images, identity, distributions, time, pose.

Array in, number out, no state but in `FeatureStatistics`. Nothing here needs torch or knows of files. What a score
means and where it comes from stands with each function.
"""

from __future__ import annotations

from facepipe.metrics.distribution import (
    FewSamplesWarning,
    Manifold,
    frechet_distance,
    frechet_distance_between,
    frechet_distance_of_features,
    inception_score,
    kernel_distance,
    kernel_distance_subsets,
    manifold_scores,
)
from facepipe.metrics.identity import (
    Verification,
    cosine_matrix,
    cosine_similarity,
    normalized_distance,
    retrieval_accuracy,
    retrieval_ranks,
    verification,
)
from facepipe.metrics.image import MS_SSIM_WEIGHTS, ms_ssim, mse, psnr, ssim
from facepipe.metrics.intervals import Interval, block_bootstrap, bootstrap, half_sampling
from facepipe.metrics.pose import (
    RIGID_POINTS,
    angle_error,
    expression,
    expression_error,
    expression_errors,
    perspective_pose,
    pose_error,
)
from facepipe.metrics.statistics import FeatureStatistics
from facepipe.metrics.time import (
    edge_flicker,
    flow_warped_error,
    flow_warped_errors,
    identity_variance,
    interocular_distance,
    jitter,
    residual_jitter,
    similarity_jitter,
)

__all__ = [
    "MS_SSIM_WEIGHTS",
    "RIGID_POINTS",
    "FeatureStatistics",
    "FewSamplesWarning",
    "Interval",
    "Manifold",
    "Verification",
    "angle_error",
    "block_bootstrap",
    "bootstrap",
    "cosine_matrix",
    "cosine_similarity",
    "edge_flicker",
    "expression",
    "expression_error",
    "expression_errors",
    "flow_warped_error",
    "flow_warped_errors",
    "frechet_distance",
    "frechet_distance_between",
    "frechet_distance_of_features",
    "half_sampling",
    "identity_variance",
    "inception_score",
    "interocular_distance",
    "jitter",
    "kernel_distance",
    "kernel_distance_subsets",
    "manifold_scores",
    "ms_ssim",
    "mse",
    "normalized_distance",
    "perspective_pose",
    "pose_error",
    "psnr",
    "residual_jitter",
    "retrieval_accuracy",
    "retrieval_ranks",
    "similarity_jitter",
    "ssim",
    "verification",
]
