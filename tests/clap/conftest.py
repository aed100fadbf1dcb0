"""torchvision, which laion-clap imports, has wheels for CUDA only; without it their operators are missing, and
transformers fails as well: declaring two of them is enough to import both."""

import torch

if torch.version.cuda is None:
    LIBRARY = torch.library.Library("torchvision", "DEF")  # kept: the declarations live as long as it does
    LIBRARY.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    LIBRARY.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
