"""The paper's other tables: ablations, robustness, comparisons, each with its table and pictures."""
