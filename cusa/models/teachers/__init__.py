"""The teachers: frozen uni-modal encoders."""
