"""The paper's experiments: its data, its sweeps over T and T_k, its figures and its table."""
