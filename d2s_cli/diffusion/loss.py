"""What a refiner is trained to make small: eq. 12, and weights of noise levels."""

from __future__ import annotations

from torch import Tensor

from d2s_cli.diffusion.refiner import Refiner, signal_and_noise


def training_loss(
    refiner: Refiner,
    image: Tensor,
    hole: Tensor,
    hole_noise: Tensor,
    noise: Tensor,
    alpha_bar: Tensor,
    per_hole: bool = False,
) -> Tensor:
    """Eq. 12: mean over all elements of `squared_error`.

    Args:
        image: x_0, N x 3 x H x W.
        hole: m, N x 1 x H x W, 0 or 1.
        hole_noise: eps_m of the condition, like `image`.
        noise: eps of the state, like `image`.
        alpha_bar: noise levels, shape (N,).
        per_hole: divide by the hole's share, so that small holes count as much as large ones.

    Returns:
        A scalar that can be differentiated.
    """
    error = squared_error(refiner, image, hole, hole_noise, noise, alpha_bar)
    if per_hole:
        return error.sum() / (hole.sum() * image.shape[1]).clamp(min=1)
    return error.mean()


def squared_error(
    refiner: Refiner,
    image: Tensor,
    hole: Tensor,
    hole_noise: Tensor,
    noise: Tensor,
    alpha_bar: Tensor,
) -> Tensor:
    """(m * target - m * prediction)^2, N x 3 x H x W; arguments as `training_loss`.

    For a network that predicts noise the target is eps; for one that predicts v it is
    a eps - s x_0.
    """
    a, s = signal_and_noise(alpha_bar)
    condition = hole * hole_noise + (1 - hole) * image
    x_t = hole * (a * image + s * noise) + (1 - hole) * image
    target = noise if refiner.config.prediction == "eps" else a * noise - s * image
    return (hole * (target - refiner.predict(condition, x_t, alpha_bar))) ** 2


def min_snr_weights(alpha_bar: Tensor, gamma: float, prediction: str) -> Tensor:
    """Min-SNR-gamma (Hang et al., 2023): what each level's loss is multiplied by, shape (N,).

    In terms of x_0 every level counts min(SNR, gamma). The error of eps is SNR times that of x_0,
    that of v SNR + 1 times.
    """
    snr = alpha_bar / (1 - alpha_bar).clamp(min=1e-8)
    return snr.clamp(max=gamma) / (snr + (1 if prediction == "v" else 0)).clamp(min=1e-8)
