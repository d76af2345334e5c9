"""Trellis-coded layers: loading, kernel selection, dispatch and tuning."""
