"""The slow twin of a file with LIME inside: what its inputs come to, row by row, in NumPy."""

import numpy as np
import onnxruntime


class Twin:
    """A plain model as ONNX Runtime runs it, and everything after it by the definitions."""

    def __init__(self, proto, *, fitted, alpha=1.0, width=0.25):
        """`fitted` is "probability" or "logits"; of a Softmax at the end those are its input."""
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if fitted == "logits" and proto.graph.output[0].name != "logits":
            proto = type(proto).FromString(proto.SerializeToString())
            proto.graph.output[0].name = "logits"
        self.session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
        self.softmax = fitted == "probability" and proto.graph.output[0].name == "logits"
        self.alpha, self.width = alpha, width

    def scores(self, image, fill, segments, masks):
        """[N, classes] of every perturbed picture, one picture a run where the model lets it."""
        (value,) = self.session.get_inputs()
        batch = value.shape[0] if isinstance(value.shape[0], int) else 1
        nchw = value.shape[1] in (1, 3, 4)
        rows = []
        for mask in masks:
            picture = fill.copy()
            for superpixel, on in enumerate(mask):
                where = segments == superpixel
                if on and nchw:
                    picture[0][:, where] = image[0][:, where]
                elif on:
                    picture[0][where] = image[0][where]
            tensor = np.repeat(picture, batch, 0)
            (got,) = self.session.run(None, {value.name: tensor})
            rows.append(got.reshape(len(got), -1)[0].astype(np.float64))
        found = np.array(rows)
        if self.softmax:
            powers = np.exp(found - found.max(1, keepdims=True))
            found = powers / powers.sum(1, keepdims=True)
        return found

    def weights(self, masks):
        """Proximity of each row, [N]."""
        rows = []
        for mask in masks:
            cosine = mask.sum() / np.sqrt(mask.sum() * len(mask)) if mask.any() else 0.0
            rows.append(np.sqrt(np.exp(-((1 - cosine) ** 2) / self.width**2)))
        return np.array(rows)

    def fit(self, masks, y):
        """Coefficients [d], intercept and weighted R^2 of one class, by least squares.

        The ridge is d more rows: sqrt(alpha) times one coefficient should be 0.
        """
        root, d = np.sqrt(self.weights(masks)), masks.shape[1]
        rows = np.column_stack([masks, np.ones(len(masks))]) * root[:, None]
        penalty = np.column_stack([np.sqrt(self.alpha) * np.eye(d), np.zeros(d)])
        solution = np.linalg.lstsq(
            np.vstack([rows, penalty]), np.concatenate([y * root, np.zeros(d)]), rcond=None
        )[0]
        mean = (root**2) @ y / (root**2).sum()
        missed = ((y * root - rows @ solution) ** 2).sum()
        spread = ((y - mean) ** 2 * root**2).sum()
        return solution[:-1], solution[-1], 1 - missed / spread

    def errors(self, blocks, y):
        """Standard errors [d]: every block left out in turn, fitted anew."""
        masks, ends = np.concatenate(blocks), np.cumsum([len(block) for block in blocks])
        count, total = len(blocks), len(masks)
        whole, pseudo = self.fit(masks, y)[0], []
        estimate = count * whole
        for end, block in zip(ends, blocks, strict=True):
            kept = np.r_[0 : end - len(block), end:total]
            left = self.fit(masks[kept], y[kept])[0]
            h = total / len(block)
            pseudo.append((h, h * whole - (h - 1) * left))
            estimate = estimate - (1 - len(block) / total) * left
        return np.sqrt(sum((p - estimate) ** 2 / (h - 1) for h, p in pseudo) / count)
