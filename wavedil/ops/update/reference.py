"""Update in plain NumPy: the equations of the contract, as they are written there."""

import numpy as np


def global_norm(x, threads):
    return np.sqrt(np.sum(np.square(x, dtype=np.float64)))


def sgd(weights, grads, velocity, average, lr, momentum, nesterov, scale, decay, threads):
    g = scale * grads
    if velocity is not None:
        velocity[:] = momentum * velocity + g
        g = g + momentum * velocity if nesterov else velocity
    weights[:] = weights - lr * g
    _average(average, weights, decay)


def adam(
    weights, grads, first, second, largest, average, step, lr, beta1, beta2, eps, weight_decay, scale, decay, threads
):  # fmt: skip
    g = scale * grads
    first[:] = beta1 * first + (1 - beta1) * g
    second[:] = beta2 * second + (1 - beta2) * g**2
    m = first / (1 - beta1**step)
    if largest is not None:
        largest[:] = np.maximum(largest, second)
    v = (second if largest is None else largest) / (1 - beta2**step)
    weights[:] = weights - lr * weight_decay * weights - lr * m / (np.sqrt(v) + eps)
    _average(average, weights, decay)


def _average(average, weights, decay):
    if average is not None:
        average[:] = decay * average + (1 - decay) * weights
