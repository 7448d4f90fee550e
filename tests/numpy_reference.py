"""ReSet in plain numpy, written from the paper's equations, to compare the layers with."""

import numpy as np


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def relu(x):
    return np.maximum(x, 0)


def conv3x3(x, kernel):
    """Convolution of `(batch, height, width, in)` by `(3, 3, in, out)`, stride 1, zeros around the image."""
    padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    height, width = x.shape[1:3]
    out = np.zeros((*x.shape[:3], kernel.shape[-1]))
    for row in range(3):
        for column in range(3):
            out += padded[:, row : row + height, column : column + width] @ kernel[row, column]
    return out


def batch_norm(x, mean, variance, gamma, beta, epsilon=1e-5):
    return (x - mean) / np.sqrt(variance + epsilon) * gamma + beta


def residual_unit(unit, x, iteration):
    """F(x) of a built `ResidualUnit` with its moving statistics."""
    for conv, norm, last in ((unit.conv1, unit.norm1, False), (unit.conv2, unit.norm2, True)):
        statistics = norm.moving_means[iteration], norm.moving_variances[iteration]
        x = batch_norm(conv3x3(x, np.array(conv.kernel)), *map(np.array, (*statistics, norm.gammas[0], norm.betas[0])))
        x = x if last else relu(x)
    return x


def lstm_controller(controller, x, state):
    """Logits and next state of a built `RNNController` (Hochreiter and Schmidhuber, 1997; gates in Keras's order)."""
    h, c = state
    kernel, recurrent, bias = (np.array(w) for w in controller.cell.get_weights())
    gates = x.mean(axis=(1, 2)) @ kernel + h @ recurrent + bias
    i, f, g, o = np.split(gates, 4, axis=-1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(c)
    dense, dense_bias = controller.dense.get_weights()
    return h @ dense + dense_bias, (h, c)


def cnn_controller(controller, x, iteration, training):
    """Logits of a built `CNNController` in one iteration (figure 2a), with the batch's statistics in training."""
    norm = controller.norm
    x = conv3x3(x, np.array(controller.conv.kernel))
    moving = (np.array(part[iteration]) for part in (norm.moving_means, norm.moving_variances))
    mean, variance = (x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))) if training else moving
    x = relu(batch_norm(x, mean, variance, np.array(norm.gammas[iteration]), np.array(norm.betas[iteration])))
    return x.mean(axis=(1, 2)) @ np.array(controller.dense.kernel)


def reset(units, controller, score, x, num_iterations):
    """Algorithm 1: the output, and the logits and scores of all iterations."""
    state = (np.zeros((len(x), controller.hidden_size)),) * 2
    logits, scores = [], []
    for k in range(num_iterations):
        logit, state = lstm_controller(controller, x, state)
        y = score(logit)
        x = relu(x + sum(y[:, i, None, None, None] * residual_unit(unit, x, k) for i, unit in enumerate(units)))
        logits.append(logit)
        scores.append(y)
    return x, np.stack(logits, axis=1), np.stack(scores, axis=1)


def act(h, epsilon):
    """Graves 2016, eq. 6-8: of the halting scores of one image or position, all but the last iteration's.

    Returns:
        N, R, and the halting distribution.
    """
    h = [*map(float, h), 1.0]
    n = next(n for n in range(1, len(h) + 1) if sum(h[:n]) >= 1 - epsilon)
    remainder = 1 - sum(h[: n - 1])
    return n, remainder, np.array([*h[: n - 1], remainder, *[0.0] * (len(h) - n)])


def act_scores(halting, x, iteration):
    """`h` of a built `ACT`, of shape `(batch,)` (Figurnov et al. 2017)."""
    kernel, bias = (np.array(part[iteration]) for part in (halting.kernels, halting.biases))
    return sigmoid(x.mean(axis=(1, 2)) @ kernel[:, 0] + bias[0])


def sact_scores(halting, x, iteration):
    """`h` of a built `SACT`, of shape `(batch, height, width)` (Figurnov et al. 2017)."""
    kernel, bias = (np.array(part[iteration]) for part in (halting.kernels, halting.biases))
    everywhere = x.mean(axis=(1, 2)) @ kernel[:, 0] + bias[0]
    return sigmoid(conv3x3(x, np.array(halting.convolutions[iteration]))[..., 0] + everywhere[:, None, None])


def one_hot_of_largest(logits):
    return np.eye(logits.shape[-1])[logits.argmax(axis=-1)]


def top_k(k):
    def score(logits):
        y = softmax(logits)
        return np.where(y >= np.sort(y, axis=-1)[:, -k, None], y, 0)

    return score
