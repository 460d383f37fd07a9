"""Answers are the official decoder's, whatever the prompts, the image they look at, and the device's way."""

import pytest
import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer

from models import sam_decoder
from models.sam_decoder import answer_prompts
from models.tiny_sam import decode_groups


class Small:
    """Prompt encoder and decoder of a Sam, whose logits are of the order of 1."""

    def __init__(self):
        torch.manual_seed(0)
        self.prompt_encoder = PromptEncoder(16, (3, 5), (80, 48), mask_in_chans=4).eval()
        decoder = MaskDecoder(
            transformer_dim=16, transformer=TwoWayTransformer(2, 16, 4, 24), iou_head_hidden_dim=8
        )
        self.mask_decoder = decoder.eval()
        for weight in (*self.prompt_encoder.parameters(), *self.mask_decoder.parameters()):
            torch.nn.init.normal_(weight, std=0.3)


@pytest.mark.parametrize("way", ["cpu", "accelerator"])
@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize(("boxed", "masked"), [(False, False), (True, False), (True, True)])
def test_answers_are_the_official_decoders(monkeypatch, way, multimask, boxed, masked):
    if way == "accelerator":
        monkeypatch.setattr(
            sam_decoder,
            "_calls",
            lambda owner, embedding, alone: [(torch.arange(len(owner)), embedding[owner])],
        )
    monkeypatch.setattr(sam_decoder, "WARM", 2 * 16 * 15)  # two prompts a call
    sam, owner = Small(), torch.tensor([1, 0, 1, 1, 2])
    embedding = torch.randn(3, 16, 3, 5)
    points = torch.rand(5, 4, 2) * 48, torch.randint(0, 2, (5, 4))
    boxes = torch.rand(5, 4) * 48 if boxed else None
    masks = torch.randn(5, 1, 12, 20) if masked else None
    with torch.inference_mode():
        logits, iou = decode_groups(sam, embedding, owner, points, boxes, masks)
        found, guess = answer_prompts(sam, embedding, owner, points, boxes, masks, multimask=multimask)
    kept = slice(1, None) if multimask else slice(0, 1)
    torch.testing.assert_close(found, logits[:, kept], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(guess, iou[:, kept], rtol=1e-4, atol=1e-4)
