"""What a weight layer does, in one vocabulary for all denoiser families."""

import re
from collections.abc import Mapping

ROLES: dict[str, str] = {
    "conv_in": "first convolution of a U-Net",
    "patch_embed": "latent patches to tokens",
    "time_embed": "timestep embedding",
    "guidance_embed": "embedding of the guidance scale",
    "size_embed": "embedding of resolution and aspect ratio",
    "label_embed": "embedding of the class label",
    "pooled_embed": "embedding of a pooled caption, with or without added sizes",
    "caption_embed": "embedding of the caption tokens",
    "modulation": "conditioning to scales, shifts and gates (AdaLN)",
    **{
        f"{attention}.{part}": f"{part} projection of {meaning}"
        for attention, meaning in {
            "self_attn": "self-attention (or of the latents in joint attention)",
            "cross_attn": "cross-attention",
            "added_attn": "the caption (or image) stream in joint attention",
            "pool_attn": "the attention that pools the caption",
        }.items()
        for part in ("q", "k", "v", "out", "qkv", "kv")
    },
    **{
        f"{stream}.{part}": f"{part} projection of the feed-forward{meaning}"
        for stream, meaning in {"ff": "", "added_ff": " of the caption stream in joint blocks"}.items()
        for part in ("in", "gate", "depthwise", "out")
    },
    "self_attn_ff.in": "fused query, key, value and feed-forward input of a parallel block",
    "self_attn_ff.out": "fused attention and feed-forward output of a parallel block",
    "proj_in": "into a transformer inside a U-Net",
    "proj_out": "out of a transformer inside a U-Net",
    "resnet.conv1": "first convolution of a residual block",
    "resnet.conv2": "second convolution of a residual block",
    "resnet.time": "timestep projection of a residual block",
    "resnet.shortcut": "1x1 convolution on the shortcut of a residual block",
    "downsample": "strided convolution",
    "upsample": "convolution after upsampling",
    "skip_linear": "joins a long skip connection",
    "final_proj": "tokens to latent patches",
    "conv_out": "last convolution of a U-Net",
    "other": "nothing that the table knows",
}
"""Role -> what it means. Combine nodes carry ``self_attn.qk``, ``cross_attn.sv`` or else their kind."""

_ATTENTION_PARTS = {
    **{f"to_{part}": part for part in ("q", "k", "v", "qkv", "kv", "out")},
    **{f"{part}_proj": part for part in ("q", "k", "v", "out")},
    "query": "q",
    "key": "k",
    "value": "v",
    "proj_attn": "out",
    "to_out.0": "out",
    "c_proj": "out",
    "to_query": "q",
    "to_key": "k",
    "to_value": "v",
    **{f"to_{part}_t": f"added {part}" for part in ("q", "k", "v", "out")},
    "add_q_proj": "added q",
    "add_k_proj": "added k",
    "add_v_proj": "added v",
    "to_add_out": "added out",
}

# First match wins; each pattern is searched in the module path.
_TABLE: tuple[tuple[str, str], ...] = tuple(
    (pattern, role)
    for role, patterns in {
        "self_attn_ff.in": [r"\.to_qkv_mlp_proj$"],
        "self_attn_ff.out": [r"single_transformer_blocks\.\d+\.(proj_out|attn\.to_out)$"],
        "added_ff.in": [r"(ff_context|txt_mlp|txt_ff)\.(net\.0\.proj|linear_in|linear_2)$", r"\.ff_t\.w3$"],
        "added_ff.gate": [r"ff_context\.linear_1$", r"\.ff_t\.w1$"],
        "added_ff.out": [r"(ff_context|txt_mlp|txt_ff)\.(net\.2|linear_out|out_projection)$", r"\.ff_t\.w2$"],
        "self_attn.qkv": [r"\.img_(attn_qkv|qkv_proj)$"],
        "self_attn.out": [r"\.(self_attention|attn)\.out_layer$", r"\.img_attn_proj$"],
        "cross_attn.out": [r"\.cross_attention\.out_layer$"],
        "added_attn.qkv": [r"\.txt_attn_qkv$"],
        "added_attn.kv": [r"\.txt_kv_proj$"],
        "added_attn.out": [r"\.txt_attn_proj$"],
        "ff.in": [
            r"(^|\.)(ff|ffn|img_mlp)\.(net\.0\.proj|linear_in|linear_2|conv_inverted)$",
            r"feed_forward\.(linear_3|w3|0)$",
            r"\.proj_mlp$",
            r"\.(ff|mlp|feed_forward)\.(up|up_proj|in_layer|gate_up_proj)$",
            r"(^|\.)(blocks|layers)\.\d+\.up_proj$",
            r"\.ff_i\.((shared_experts|experts\.\d+)\.)?w3$",
            r"\.audio_ff\.net\.0\.proj$",
            r"\.img_mlp\.proj$",
        ],
        "ff.gate": [
            r"\.ff\.linear_1$",
            r"feed_forward\.(linear_1|w1)$",
            r"\.(ff|mlp)\.(gate|gate_proj)$",
            r"(^|\.)(blocks|layers)\.\d+\.gate_proj$",
            r"\.ff_i\.((shared_experts|experts\.\d+)\.)?w1$",
            r"\.img_mlp\.gate_layer$",
        ],
        "ff.depthwise": [r"\.ff\.conv_depth$"],
        "ff.out": [
            r"(^|\.)(ff|ffn|img_mlp)\.(net\.2|linear_out|out_projection|conv_point)$",
            r"feed_forward\.(linear_2|w2|2)$",
            r"\.(ff|mlp|feed_forward)\.(down|down_proj|out_layer|linear_fc2)$",
            r"(^|\.)(blocks|layers)\.\d+\.down_proj$",
            r"\.ff_i\.((shared_experts|experts\.\d+)\.)?w2$",
            r"\.audio_ff\.net\.2$",
            r"\.img_mlp\.out$",
        ],
        "resnet.conv1": [r"(resnets|temp_convs)\.\d+\.conv1(\.\d)?$"],
        "resnet.conv2": [r"(resnets|temp_convs)\.\d+\.conv[234](\.\d)?$"],
        "resnet.time": [r"resnets\.\d+\.time_emb_proj$"],
        "resnet.shortcut": [r"\.conv_shortcut$"],
        "downsample": [r"downsamplers\.\d+\."],
        "upsample": [r"upsamplers\.\d+\."],
        "skip_linear": [r"skip_linear$"],
        "guidance_embed": [r"guidance_embedder\."],
        "size_embed": [r"(resolution_embedder|aspect_ratio_embedder)\."],
        "time_embed": [
            r"(^|\.)(timestep_embedder|time_embedding|time_embedder|t_embedder|time_step_proj|timestep_proj)\.",
            r"^(time_in|time_embeddings)\.(in|out)_layer$",
            r"^time_embed(_r)?\.linear_[12]$",
        ],
        "pooled_embed": [
            r"time_text_embed\.text_embedder\.",
            r"(^|\.)(pooled_embedder|(video_)?pooled_text_embeddings)\.",
            r"(add_embedding|extra_embedder|condition_embedder)\.linear",
        ],
        "label_embed": [r"(class_embedding|label_embedding)"],
        "final_proj": [
            r"(^|\.)norm_out\.linear_2$",
            r"^(audio_)?proj_out(_2)?$",
            r"final_layer\.[^.]+\.linear$",
            r"^final_layer\.linear$",
            r"^final_linear$",
            r"^out_layer\.out_layer$",
        ],
        "modulation": [
            r"norm[^.]*\.linear(_\d)?$",
            r"(modulation|_mod)[^.]*(\.\d|\.linear)$",
            r"(adaln_single|time_embed)\.linear$",
            r"condition_embedder\.time_proj$",
            r"^proj_out_1$",
            r"^distilled_guidance_layer\.",
            r"modulation\.(lin|out_layer)$",
            r"^(time_mod|adaln)_proj$",
            r"adaln_modulation$",
            r"^av_cross_attn_[^.]+\.linear$",
            r"\.attn\.to_gate$",
        ],
        "caption_embed": [
            r"(caption_projection|context_embedder|caption_embedder|cap_embedder|txt_in|text_proj|text_embedder)",
            r"(encoder_hid_proj|cross_attention_proj|caption_proj)",
            r"^(video_)?text_embeddings\.in_layer$",
            r"^text_fusion\.projector$",
        ],
        "patch_embed": [
            r"((pos|patch)_embed\.proj|patch_embedding|x_embedder|img_in)",
            r"^(audio_)?proj_in$",
            r"^visual_embeddings\.in_layer$",
        ],
        "proj_in": [r"\.proj_in$"],
        "proj_out": [r"\.proj_out$"],
        "conv_in": [r"^conv_in$"],
        "conv_out": [r"^conv_out$"],
    }.items()
    for pattern in patterns
)

# Names that one class or a few use; asked after the table, so that they never change what it says.
_RARER: tuple[tuple[str, str], ...] = tuple(
    (pattern, role)
    for role, patterns in {
        "patch_embed": [
            r"^(proj_in_conv|preprocess_conv|input_proj|continuous_inputs_projection|embed\.conv|audio_embeddings\.in_layer)$",
            r"^(input_embed|latent_embed|latent_cond_embedder)\.proj\.\d$",
            r"^(embedding\.\d|embedding_proj)$",
            r"^((effnet|pixels)_mapper\.\d|(image|prior)_projector\.(proj|net\.0\.proj|net\.2)|controlnet_cond_embedding\..+)$",
        ],
        "time_embed": [
            r"^(time_embed\.time_mlp\.\d|time_mlp\.linear_\d|time_token\.linear_\d|base_time_embedding\.linear_\d)$",
            r"^(t_embedding\.mlp_(in|out)|to_timestep_embed\.\d|conditioning_emb\.\d)$",
            r"^ofs_embedding\.linear_\d$",  # of a number that is embedded and added as the timestep is
        ],
        "pooled_embed": [
            r"^(clip_(txt_pooled|img)_mapper|cond_embed\.linear_\d|global_proj\.\d|to_global_embed\.\d)$",
            r"^audio_pooled_text_embeddings\.in_layer$",
        ],
        "caption_embed": [
            r"^(condition_embedder|llm_cond_proj|encoder_hidden_states_proj|clip_txt_mapper|text_in)$",
            r"^(text_embed\.proj\.\d|to_cond_embed\.\d|audio_text_embeddings\.in_layer)$",
            r"(^|\.)encoder_proj$",
            r"\.kv_mapper\.\d$",
            r"^glyph_projector\.net\.(0\.proj|2)$",
            r"(^|\.)(id_embedding_mapping|mapping_\d)\.\d$",
        ],
        "modulation": [
            r"^time_embed(_r)?\.time_proj$",
            r"modulations\.[^.]+\.linear$",
            r"\.context_mlp\.\d$",
            r"^(adaln_global_mlp\.mlp|global_cond_embedder)\.\d$",
            r"\.scale_bias$",
            r"\.((mapper|mapper_sca|mapper_crp)|cond_embeds_mapper)$",
        ],
        "ff.in": [
            r"\.(feed_forward|shared_expert|ff_in)\.net\.0\.proj$",
            r"\.(ff_in|experts\.gate_up_proj|ffn\.ff\.0|DenseReluDense\.wi_1|layers\.\d+\.1\.1)$",
            r"\.(channelwise\.0|channelwise_linear_1|pwconv1)$",
        ],
        "ff.gate": [r"\.DenseReluDense\.wi_0$"],
        "ff.depthwise": [r"\.(depthwise|dwconv)$"],
        "ff.out": [
            r"\.(feed_forward|shared_expert|ff_in)\.net\.2$",
            r"\.(ff_out|experts\.down_proj|ffn\.ff\.3|DenseReluDense\.wo|layers\.\d+\.1\.3)$",
            r"\.(channelwise\.4|channelwise_linear_2|pwconv2)$",
        ],
        "cross_attn.out": [r"\.(va|av)_cross_attention\.out_layer$"],
        "resnet.conv1": [
            r"resnets\.\d+\.(conv_1|conv_in\.conv1d|(spatial|temporal)_res_block\.conv1|conv1\.(depth|point)wise)$",
            r"resnet_blocks\.0\.projection$",
        ],
        "resnet.conv2": [
            r"resnets\.\d+\.(conv_2|conv_out\.conv1d|(spatial|temporal)_res_block\.conv2|conv2\.(depth|point)wise)$",
            r"resnet_blocks\.[1-9]\d*\.projection$",
        ],
        "resnet.time": [r"resnets\.\d+\.(time_emb|(spatial|temporal)_res_block\.time_emb_proj)$"],
        "resnet.shortcut": [r"\.(conv_skip|residual_conv|shortcut_projection)$"],
        "downsample": [
            r"\.(downsample|(base|ctrl)_downsamplers)\.conv$",
            r"(^down_downscalers\.|down_sample$)",
        ],
        "upsample": [r"\.(upsample|upsamplers)\.conv$", r"(^up_upscalers\.|up_sample$)"],
        "proj_in": [r"^project_to_hidden$"],
        "proj_out": [r"^project_from_hidden$"],
        "final_proj": [
            r"^(proj_out_conv|postprocess_conv|proj_to_clip_embeddings|spec_out|out|mlm_layer\.conv2)$",
            r"^(audio_out_layer\.out_layer|(vae_img|clip_img|text)_out)$",
        ],
        "conv_in": [r"^(base|ctrl)_conv_in$"],
        "conv_out": [r"^(base_conv_out|clf\.\d|out_block\.final_conv1d_2)$"],
    }.items()
    for pattern in patterns
)


def attention_part(module: str) -> tuple[str, str] | None:
    """Splits the path of an attention projection.

    Returns:
        (path of the attention module, "q" | "k" | "v" | "out" | "qkv" | "kv" | "added q" | ...), None for a
        layer of another sort.
    """
    pieces = module.split(".")
    for length in (1, 2):
        leaf = ".".join(pieces[-length:])
        if len(pieces) > length and leaf in _ATTENTION_PARTS:
            return ".".join(pieces[:-length]), _ATTENTION_PARTS[leaf]
    return None


def role_of(module: str, cross_attention: Mapping[str, bool]) -> str:
    """The role of a weight layer.

    Args:
        module: path of its module.
        cross_attention: attention module path -> whether its queries and keys read different data.
    """
    for pattern, role in _TABLE[:2]:
        if re.search(pattern, module):
            return role
    attention = attention_part(module)
    if attention is not None:
        owner, part = attention
        prefix, part = (
            ("added_attn", part.split()[1]) if " " in part else (attention_role(owner, cross_attention), part)
        )
        return f"{prefix}.{part}"
    return next((role for pattern, role in _TABLE + _RARER if re.search(pattern, module)), "other")


def attention_role(owner: str, cross_attention: Mapping[str, bool]) -> str:
    """``self_attn``, ``cross_attn`` or ``pool_attn`` for the path of an attention module."""
    if "pool" in owner:
        return "pool_attn"
    return "cross_attn" if cross_attention.get(owner, False) else "self_attn"
