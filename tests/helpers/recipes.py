"""What makes an experiment small enough to train in a test."""

REDUCED = [  # the width and depth of the MAR weights in tests/golden; the rest is the experiment's
    *("model=tiny", "trainer=cpu", "model.depth=2", "model.num_heads=4", "model.head_depth=2", "model.patch_size=4"),
    *("model.max_patches=32", "model.num_codebooks=2", "model.codebook_size=16"),
    *("trainer.global_batch_size=0", "trainer.max_steps=3", "trainer.validate_every_steps=3", "data.batch_size=4"),
    *("trainer.sample_every_steps=0", "trainer.log_every_steps=1", "optim.warmup_steps=1", "data.num_workers=0"),
    "optim.decay_steps=0",
]
