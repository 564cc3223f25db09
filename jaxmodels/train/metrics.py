def means(metrics):
    return {name: float(s) / max(float(n), 1.0) for name, (s, n) in metrics.items()}
