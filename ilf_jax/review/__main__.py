"""python -m ilf_jax.review: see `ilf_jax.review.serving`."""

from absl import app

from ilf_jax.review.serving import main

if __name__ == "__main__":
    app.run(main)
