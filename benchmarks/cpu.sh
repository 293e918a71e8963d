#!/usr/bin/env bash
# The CPU figures of docs/benchmarks.md: rows.jsonl, environment.json and a plot for each group, in the folder named (default:
# results/benchmark-cpu). About an hour on two cores, most of it compilation; nothing else should run meanwhile.
set -euo pipefail
folder=${1:-results/benchmark-cpu}
mkdir -p "$folder"

crosslayer bench --device cpu --backbones cifar_resnet20 --mechanisms none dla_l mrla_l --modes train infer \
  --precisions fp32 bf16 --compiled eager compiled --batch-sizes 64 --output "$folder/light" --plot "$folder/light.png"
crosslayer bench --device cpu --backbones cifar_resnet20 --mechanisms none dla_l mrla_l --modes train infer \
  --precisions fp32 bf16 --compiled eager --impls plain fused --batch-sizes 64 \
  --output "$folder/reference" --plot "$folder/reference.png"
crosslayer bench --device cpu --backbones cifar_resnet56 --mechanisms none dla_b mrla_b --modes train \
  --precisions fp32 bf16 --compiled eager compiled --batch-sizes 64 --output "$folder/base" --plot "$folder/base.png"
