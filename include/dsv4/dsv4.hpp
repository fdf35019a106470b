// SPDX-License-Identifier: MIT
#pragma once
/// Everything, in reading order: each header needs only headers above it.
/// A program that wants one concept includes that header; .cu files never include this one.

// clang-format off: the order is that of reading, not of the alphabet

// What a tensor is, where work runs, how errors speak.
#include "core/config_macros.hpp"  // the compiler: C++20, and no -ffast-math
#include "core/view.hpp"           // pointer + extents + memory space, never an owner
#include "core/tensor.hpp"         // owners: tensor and workspace
#include "core/exec.hpp"           // executors: ref is the specification, cpu the product
#include "core/error.hpp"          // four kinds of error
#include "core/contract.hpp"       // preconditions that print both values
#include "core/memory.hpp"         // where memory comes from, and the crossing between spaces
#include "core/dtype.hpp"          // storage types of files and events
#include "core/config.hpp"         // the numbers that make a model
#include "core/tap.hpp"            // watching, or replacing, every intermediate value
#include "core/call.hpp"           // what every composition is called with

// Numbers.
#include "num/minifloat.hpp"     // bf16, f16, e4m3, e2m1, e8m0 from one definition
#include "num/round.hpp"         // the one rounding of a narrow store
#include "num/block_scaled.hpp"  // codes and their scales, as a checkpoint stores them
#include "num/fp4_to_fp8.hpp"    // FP4 weights as FP8, lossless under a condition
#include "num/policy.hpp"        // official and float32<T>: what is stored between operations

// Operators.
#include "op/embedding.hpp"  // token id -> row
#include "op/rms_norm.hpp"   // weighted, and per head without weight
#include "op/act_quant.hpp"  // FP8 and FP4 quantisation of activations
#include "op/linear.hpp"     // products with weights of every format
#include "op/rope.hpp"       // rotary positions and YaRN
#include "op/hadamard.hpp"   // the rotation before FP4
#include "op/rows.hpp"       // joining and picking rows
#include "op/swiglu.hpp"     // the gate of an expert, with clamps
#include "op/top_k.hpp"      // the k largest, ties to the lower index

// Manifold-constrained hyper-connections: n residual streams.
#include "mhc/weights.hpp"   // fn, base, scale
#include "mhc/sinkhorn.hpp"  // comb -> doubly stochastic
#include "mhc/pre.hpp"       // mixes, and the stream a sublayer reads
#include "mhc/post.hpp"      // what a sublayer writes back
#include "mhc/head.hpp"      // n streams -> one, before the final norm

// Attention: window, CSA, HCA.
#include "attn/weights.hpp"           // projections, sink, compressor, indexer
#include "attn/kv_cache.hpp"          // what a sequence remembers: ring, entries, open block
#include "attn/batch.hpp"             // the tokens of a pass as a layer sees them
#include "attn/compressor.hpp"        // tokens -> one entry per block
#include "attn/indexer.hpp"           // which entries a query sees (CSA)
#include "attn/sparse_attention.hpp"  // softmax over slots, with a sink
#include "attn/attention.hpp"         // one layer: projections, the above, grouped output

// Mixture of experts.
#include "moe/weights.hpp"  // gate, table, experts
#include "moe/gate.hpp"     // scores, selection bias, hash routing by table
#include "moe/expert.hpp"   // SwiGLU of one expert
#include "moe/moe.hpp"      // routed + shared

// Engram: what the last few tokens recall.
#include "engram/normal_forms.hpp"       // what each character becomes
#include "engram/vocabulary.hpp"         // tokens that differ in case and accents count as one
#include "engram/hash.hpp"               // the last tokens -> rows of a table
#include "engram/table.hpp"              // rows of FP8, mapped
#include "engram/gate.hpp"               // how much each stream takes, and back
#include "engram/engram.hpp"             // the module of V4.1, and back
#include "engram/short_convolution.hpp"  // the paper's variant, and back

// DSpark: a block of tokens drafted at once.
#include "dspark/acceptance.hpp"  // which of them stand
#include "dspark/anchors.hpp"     // where training drafts
#include "dspark/heads.hpp"       // the token before, and how far to trust
#include "dspark/weights.hpp"     // of a drafter
#include "dspark/cache_store.hpp"  // how its keys and values are rounded
#include "dspark/stage.hpp"       // one of its blocks
#include "dspark/drafter.hpp"     // all of it
#include "dspark/loss.hpp"        // what it learns, and back

// The model.
#include "model/weights.hpp"      // all weights: views of a mapped checkpoint
#include "model/block.hpp"        // mHC around attention, mHC around MoE
#include "model/mtp.hpp"          // multi-token prediction
#include "model/context.hpp"      // what a drafter sees of the layers
#include "model/dspark.hpp"       // a checkpoint's DSpark drafter
#include "model/prepare.hpp"      // weights on their way to an executor
#include "model/sequence.hpp"     // what is remembered of one sequence
#include "model/fingerprint.hpp"  // whose state a sequence holds
#include "model/transformer.hpp"  // prefill, decode, rewind
#include "model/kernels.hpp"      // what an executor has to write, by name
#include "model/accounting.hpp"   // parameters, and bytes of KV cache per token
#include "model/cost.hpp"         // operations and bytes of one decoded token

// Training: every concept again with its gradient, and who moves the weights.
#include "optim/newton_schulz.hpp"     // a matrix -> its orthogonal factor
#include "optim/muon.hpp"              // matrices
#include "optim/adamw.hpp"             // embedding, head, vectors
#include "optim/schedule.hpp"          // warm-up, constant, cosine
#include "optim/clip.hpp"              // the norm of all gradients
#include "train/parameters.hpp"        // all parameters by name, in one buffer
#include "train/batch.hpp"             // packed samples
#include "train/objective.hpp"         // what is minimised
#include "train/product.hpp"           // y = x w^T, and back
#include "train/lora.hpp"              // low-rank adapters, and back
#include "train/rms_norm.hpp"          // norms, and back
#include "train/rope.hpp"              // rotations, and back
#include "train/sinkhorn.hpp"          // all 39 normalisations, back
#include "train/hyper_connection.hpp"  // mHC, and back
#include "train/compressor.hpp"        // entries, and back
#include "train/indexer.hpp"           // the choice, and the objective it learns from
#include "train/sparse_attention.hpp"  // softmax with a sink, and back
#include "train/attention.hpp"         // one layer, and back
#include "train/gate.hpp"              // routing, and back; balance
#include "train/moe.hpp"               // experts, and back
#include "train/block.hpp"             // one block, and back
#include "train/cross_entropy.hpp"     // read-out and loss, and back
#include "train/mtp.hpp"               // multi-token prediction, and back
#include "train/model.hpp"             // loss and gradient of the whole model
#include "train/quantise.hpp"          // weights through FP8 and FP4 (quantisation-aware training)

// After pre-training: answers that are judged, teachers that are followed.
#include "post/token_probability.hpp"  // log-probability and entropy, and back
#include "post/advantage.hpp"          // rewards -> advantages
#include "post/policy_ratio.hpp"       // how much likelier an answer has become
#include "post/answer_mask.hpp"        // what is left out of it
#include "post/policy_loss.hpp"        // the clipped loss
#include "post/kl.hpp"                 // distance from the reference
#include "post/aggregate.hpp"          // the weight of each token in the loss
#include "post/grpo.hpp"               // the whole loss, and back
#include "post/divergence.hpp"         // KL over the whole vocabulary, and back
#include "post/distill.hpp"            // on-policy distillation, by hidden states and heads

// With dsv4::dsv4: files, and the fast kernels.
#if defined(DSV4_HAS_CPU)
#include "cpu/cpu.hpp"                  // every kernel of exec::cpu
#include "io/checkpoint.hpp"            // hub directories, mapped
#include "io/engram_tables.hpp"         // tables of hundreds of gigabytes, by rows
#include "text/chat_encoding.hpp"       // messages -> prompt
#include "text/stream_parser.hpp"       // completion -> events while it is written
#include "text/chat_parsing.hpp"        // completion -> message
#include "text/tokenizer.hpp"           // text <-> token ids
#include "text/prompt_ids.hpp"          // prompt -> token ids, no control token from a user's words
#include "gen/grammar.hpp"              // which tokens may follow, and what that leaves of the distribution
#include "gen/grammar_json.hpp"         // grammars of JSON schemas …
#include "gen/grammar_calls.hpp"        // … and of calls of tools
#include "gen/sampler.hpp"              // logits -> distribution -> token
#include "gen/log_probability.hpp"      // what the model itself thinks of the tokens
#include "gen/generate.hpp"             // prompt -> tokens
#include "gen/model_drafter.hpp"        // drafts of MTP, or of DSpark in its place
#include "gen/speculative.hpp"          // the same with drafts, several tokens a call
#include "gen/state_file.hpp"           // a conversation on disk: load and go on to the same bits
#include "gen/prefix_file.hpp"          // what an earlier prompt has computed, reused; on disk
#include "gen/batcher.hpp"              // many requests at once, each as if it were alone
#include "gen/conversation.hpp"         // a chat: reads only what is new; saved and loaded
#include "trainer/held_out.hpp"         // the end of a text, which training never sees
#include "trainer/random.hpp"           // numbers by counter: any draw again
#include "trainer/dataset.hpp"          // text -> packed rows, in an order that a seed decides
#include "trainer/chat_dataset.hpp"     // conversations -> packed rows, loss on the answers
#include "trainer/initial_weights.hpp"  // before the first step; balanced hash tables
#include "trainer/anticipatory.hpp"     // routing by earlier parameters, and when
#include "trainer/settings.hpp"         // every knob of a run, as JSON
#include "trainer/training_state.hpp"   // what a run is between two steps
#include "trainer/step_report.hpp"      // what a run tells of a step
#include "trainer/updates.hpp"          // Muon and AdamW over all parameters
#include "trainer/checkpoint.hpp"       // a run on disk, whole or not at all
#include "trainer/trainer.hpp"          // the loop
#include "trainer/load.hpp"             // checkpoint -> parameters
#include "trainer/loss_curve.hpp"       // loss against steps, as SVG
#include "trainer/export.hpp"           // weights -> checkpoint directory: float, and the published types
#include "trainer/score.hpp"            // bits per byte of a text, expert use, accepted drafts
#include "trainer/trigram.hpp"          // the baseline: Kneser-Ney over bytes
#endif
// clang-format on
