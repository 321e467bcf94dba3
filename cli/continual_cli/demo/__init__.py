"""The main job as a story on real digits: `make demo`, or `python -m continual_cli.demo`.

`world` makes the images, `feeder` sends them and labels them late, `tracker` keeps the books from outside, `operator_process` runs the
real `continual local`, `story` is the table of contents, `report` draws what was recorded. Nothing here is imported by the product.
"""
