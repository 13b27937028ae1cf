"""Fixed answers of Keras, PyTorch and scikit-learn, and what makes them."""
