#!/usr/bin/env bash
# The GPU's targets: DLA-L and MRLA-L in ResNet-50 and ResNet-101 against torchvision's plain networks, bf16, compiled, 224×224,
# batch 256. Rows and plots in the folder named (default: results/benchmark-gpu).
set -euo pipefail
folder=${1:-results/benchmark-gpu}
mkdir -p "$folder"

for depth in 50 101; do
  crosslayer bench --device cuda --backbones "resnet$depth" --baseline "torchvision:resnet$depth" --mechanisms none dla_l mrla_l \
    --modes train infer --precisions bf16 --compiled eager compiled --impls fused plain --batch-sizes 256 --image-sizes 224 \
    --output "$folder/resnet$depth" --plot "$folder/resnet$depth.png"
done
python benchmarks/depth.py --device cuda --plot "$folder/depth.png" | tee "$folder/depth.txt"
