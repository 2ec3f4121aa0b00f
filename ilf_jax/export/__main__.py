"""python -m ilf_jax.export: see `ilf_jax.export.hugging_face`."""

from absl import app

from ilf_jax.export.hugging_face import main

if __name__ == "__main__":
    app.run(main)
