"""Backbones: one interface for every model, honest about its input, strict about its weights."""

import copy
import io
import pickle
import subprocess
import sys
import urllib.error
import zipfile

import huggingface_hub.constants
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pml_center.backbones import ConvNet, Embedder, create_embedder
from pml_center.data import eval_transform, image_folder

TIMM = ["test_resnet", "test_vit", "test_efficientnet"]
each_model = pytest.mark.parametrize("name", ["convnet", *TIMM])
each_neck = pytest.mark.parametrize("neck", ["none", "linear", "bnneck"])
IMAGE_SIZE = 32


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network and an empty cache, which is returned."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


def build(name="convnet", embedding_size=8, neck="linear", **kwargs):
    return create_embedder(name, embedding_size, neck, image_size=IMAGE_SIZE, **kwargs)


def images(embedder, batch=4):
    return torch.rand(batch, embedder.in_chans, IMAGE_SIZE, IMAGE_SIZE)


def test_importing_backbones_and_data_imports_nothing_heavy():
    heavy = "print(*{'timm', 'torchvision', 'sklearn'} & set(sys.modules))"
    command = [sys.executable, "-c", f"import sys, pml_center.backbones, pml_center.data; {heavy}"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "\n"


@each_model
@each_neck
@pytest.mark.parametrize("in_chans", [1, 3])
def test_embeddings_have_the_size_announced(name, neck, in_chans):
    embedder = build(name, None if neck == "none" else 8, neck, in_chans=in_chans)
    embeddings = embedder(images(embedder))
    assert embeddings.shape == (4, embedder.embedding_size)
    assert neck == "none" or embedder.embedding_size == 8
    assert embedder.training
    assert (embedder.name, embedder.in_chans, embedder.image_size) == (name, in_chans, IMAGE_SIZE)


@each_model
@each_neck
def test_without_a_size_the_features_keep_their_width(name, neck):
    embedder = build(name, None, neck)
    features = embedder.eval().trunk(images(embedder))
    assert embedder.embedding_size == features.shape[1]
    if neck != "bnneck":
        torch.testing.assert_close(embedder.neck(features), features, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "test_mambaout"])
def test_the_width_is_measured_where_timm_s_num_features_is_wrong(name):
    embedder = build(name, 8)
    assert embedder.trunk.num_features != embedder.neck.in_features
    assert embedder(images(embedder)).shape == (4, 8)


@each_model
def test_gradients_reach_every_parameter_that_is_not_frozen(name):
    embedder = build(name, neck="bnneck")
    embedder(images(embedder)).square().sum().backward()
    frozen = [key for key, parameter in embedder.named_parameters() if parameter.grad is None]
    assert frozen == ["neck.1.bias"]


def test_the_linear_neck_has_a_bias_and_the_bnneck_none_that_moves():
    assert build(neck="linear").neck.bias is not None
    projection, norm = build(neck="bnneck").neck
    assert projection.bias is None
    assert not norm.bias.requires_grad
    assert not norm.bias.any()


def test_the_bnneck_centers_the_embeddings_of_a_batch():
    embedder = build(neck="bnneck")
    embeddings = embedder(images(embedder, batch=64))
    torch.testing.assert_close(embeddings.mean(0), torch.zeros(8), rtol=0, atol=1e-5)
    torch.testing.assert_close(embeddings.std(0, correction=0), torch.ones(8), rtol=0, atol=1e-2)


@each_model
def test_building_does_not_disturb_the_statistics_of_batch_norm(name):
    for module in build(name).modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.num_batches_tracked == 0
            assert not module.running_mean.any()


@each_model
def test_an_embedder_survives_copying_pickling_and_its_state_dict(name):
    embedder = build(name, neck="bnneck")
    embedder(images(embedder))  # statistics away from their start
    batch = images(embedder)
    expected = embedder.eval()(batch)
    reloaded, file = build(name, neck="bnneck").eval(), io.BytesIO()
    torch.save(embedder.state_dict(), file)
    file.seek(0)
    reloaded.load_state_dict(torch.load(file))
    for other in (copy.deepcopy(embedder), pickle.loads(pickle.dumps(embedder)), reloaded):
        torch.testing.assert_close(other(batch), expected, rtol=0, atol=0)
        assert vars(other)["mean"] == embedder.mean


@each_model
@each_neck
def test_runs_in_bf16_autocast(name, neck):
    embedder = build(name, None if neck == "none" else 8, neck)
    batch = images(embedder)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embeddings = embedder(batch)
    embeddings.float().square().sum().backward()
    assert embeddings.isfinite().all()
    assert all(parameter.dtype == torch.float32 for parameter in embedder.parameters())


def test_the_input_is_described_as_the_model_wants_it():
    embedder = create_embedder("test_efficientnet")
    assert (embedder.in_chans, embedder.image_size) == (3, 160)
    assert embedder.mean == (0.485, 0.456, 0.406)
    assert embedder.std == (0.229, 0.224, 0.225)


def test_a_grey_model_gets_the_average_of_the_colours():
    embedder = create_embedder("test_efficientnet", in_chans=1)
    assert embedder.mean == pytest.approx((0.449,))
    assert embedder.std == pytest.approx((0.226,))


@pytest.mark.parametrize("name", ["convnet", "test_resnet", "test_vit"])
def test_the_image_size_may_be_a_height_and_a_width(name):
    embedder = create_embedder(name, 8, image_size=(64, 32), in_chans=1)
    assert embedder.image_size == (64, 32)
    assert embedder(torch.zeros(2, 1, 64, 32)).shape == (2, 8)


def test_a_square_image_size_is_one_number():
    assert create_embedder("test_vit", image_size=(64, 64)).image_size == 64


def test_a_vit_is_built_for_its_image_size():
    embedder = create_embedder("vit_tiny_patch16_224", image_size=64)  # one that takes a single size
    assert embedder(torch.zeros(2, 3, 64, 64)).shape == (2, 192)
    with pytest.raises(AssertionError, match="Input height"):
        embedder(torch.zeros(2, 3, 224, 224))


def test_timm_gets_its_own_arguments():
    embedder = build("test_vit", drop_path_rate=0.5, class_token=False, global_pool="avg")
    assert embedder.trunk.cls_token is None


def test_an_own_module_can_be_the_trunk():
    trunk = nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    embedder = Embedder(trunk, name="mine", in_chans=3, image_size=8, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert embedder.embedding_size == 5


def test_a_trunk_in_evaluation_mode_stays_in_it():
    trunk = ConvNet(width=4).eval()
    Embedder(trunk, 8, name="mine", in_chans=1, image_size=8, mean=(0.5,), std=(0.5,))
    assert not trunk.training


@pytest.mark.parametrize("size", [8, 9, 28, 105])
def test_the_convnet_takes_images_of_any_size_from_8_pixels(size):
    embedder = create_embedder("convnet", 8, image_size=size, width=8)
    assert embedder(torch.rand(2, 1, size, size)).shape == (2, 8)


def test_the_convnet_learns_to_tell_two_strokes_apart():
    """Bars of two directions at random places, which an average over pixels cannot tell apart."""
    batch, labels = torch.zeros(64, 1, 16, 16), torch.arange(64) % 2
    for image, label, place in zip(batch, labels, torch.randint(16, (64,)), strict=True):
        (image[0] if label else image[0].T)[place] = 1
    embedder = create_embedder("convnet", 2, image_size=16, width=8)
    optimizer = torch.optim.Adam(embedder.parameters(), lr=0.01)
    for _ in range(20):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(embedder(batch), labels)
        loss.backward()
        optimizer.step()
    assert loss < 0.05


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("resnt50", "'resnet50'"),
        ("ResNet50", "'resnet50'"),
        ("resnet50.a1_in2k", "'resnet50.a1_in1k'"),
        ("convnets", "'convnet'"),
    ],
)
def test_an_unknown_model_is_an_error_with_the_nearest_names(name, meant):
    with pytest.raises(
        ValueError, match=rf"got '{name}'\. Did you mean .*{meant}.*timm\.list_models\('\*{name[:4]}\*'\)"
    ):
        create_embedder(name)


def test_a_repository_without_its_source_is_an_error():
    with pytest.raises(ValueError, match="hf-hub:timm/test_resnet"):
        create_embedder("timm/test_resnet")


def test_an_unknown_neck_is_an_error_with_the_nearest_name():
    with pytest.raises(ValueError, match=r"got 'bneck'\. Did you mean 'bnneck'"):
        build(neck="bneck")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"neck": "none", "embedding_size": 9}, "must be 128 or None because neck='none'.* got 9.*neck='linear'"),
        ({"embedding_size": 0}, "embedding_size must be at least 1, got 0.*None for the model's own 128"),
        ({"pretrained": True}, "pretrained must be False because 'convnet' has no pretrained weights"),
        ({"pretrained": True, "weights": "x.pth"}, "weights must be None because pretrained=True, got 'x.pth'"),
        ({"image_size": 4}, "images must have at least 8 × 8 pixels, got 4 × 4"),
        ({"name": "test_resnet", "global_pool": ""}, r"trunk must give pooled features.*got shape \(1, 96, "),
    ],
    ids=["width", "zero", "pretrained", "two sources", "tiny", "unpooled"],
)
def test_arguments_that_contradict_the_model_are_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        create_embedder(**({"name": "convnet"} | arguments))


def test_timm_s_own_word_for_the_image_size_is_answered_with_ours():
    with pytest.raises(TypeError, match="image_size, got img_size=64"):
        create_embedder("test_vit", img_size=64)


def test_an_argument_that_the_model_does_not_take_is_an_error():
    with pytest.raises(TypeError, match="colour"):
        build("test_resnet", colour="red")


@pytest.mark.parametrize("shape", [(4, 3, 32, 32), (4, 32, 32), (1, 32, 32)])
def test_images_of_another_shape_are_an_error(shape):
    with pytest.raises(ValueError, match=r"images must have shape \(batch, 1, height, width\).*got shape"):
        build()(torch.zeros(shape))


def test_a_batch_of_one_that_batch_norm_cannot_take_is_explained():
    for embedder in (build(neck="bnneck"), create_embedder("convnet", 8, image_size=8)):
        alone = torch.zeros(1, 1, embedder.image_size, embedder.image_size)
        with pytest.raises(ValueError, match=r"at least 2 in training.*got 1.*drop_last=True"):
            embedder(alone)
        assert embedder.eval()(alone).shape == (1, 8)


def test_a_batch_of_one_is_fine_where_batch_norm_has_pixels_to_average():
    embedder = build()
    assert embedder(images(embedder, batch=1)).shape == (1, 8)


def test_other_errors_of_the_model_are_left_as_they_are():
    embedder = build()
    embedder.trunk.forward = lambda images: (_ for _ in ()).throw(ValueError("mine"))
    with pytest.raises(ValueError, match=r"^mine$"):
        embedder(torch.zeros(1, 1, 32, 32))


@pytest.mark.parametrize("name", ["test_resnet", "test_resnet.r160_in1k", "hf-hub:timm/test_resnet"])
def test_pretrained_weights_without_a_network_say_so(name, offline):
    with pytest.raises(OSError, match=r"no network: this machine is offline.*pretrained=False.*weights=FILE") as error:
        create_embedder(name, pretrained=True, cache_dir=str(offline))
    assert str(offline) in str(error.value)
    assert name in str(error.value)


def test_weights_behind_a_plain_address_without_a_network_say_so_too(monkeypatch):
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(OSError, match="Hugging Face cache"):
        create_embedder("test_resnet", pretrained=True)


def test_a_folder_saved_by_timm_is_a_model(tmp_path):
    saved = timm.create_model("test_resnet", num_classes=3)
    timm.models.save_for_hf(saved, str(tmp_path), safe_serialization=True)
    embedder = create_embedder(f"local-dir:{tmp_path}", 8, pretrained=True)
    torch.testing.assert_close(embedder.trunk.conv1[0].weight, saved.conv1[0].weight, rtol=0, atol=0)


def saved_weights(tmp_path, name, half=False, **kwargs):
    """A file with all weights of a timm classifier, and what is in it."""
    state = {
        key: value.half() if half else value for key, value in timm.create_model(name, **kwargs).state_dict().items()
    }
    path = tmp_path / f"{name}.safetensors"
    save_file(state, path)
    return path, state


@pytest.mark.parametrize("name", TIMM)
@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
def test_a_file_fills_the_whole_trunk_and_its_classifier_is_left_out(name, half, tmp_path):
    path, state = saved_weights(tmp_path, name, half)
    trunk = create_embedder(name, 8, weights=path).trunk.state_dict()
    assert 0 < len(state) - len(trunk) <= 2
    for key, value in trunk.items():
        torch.testing.assert_close(value, state[key].to(value.dtype), rtol=0, atol=0)
        assert value.dtype != torch.float16


def test_a_pytorch_file_is_read_as_well(tmp_path):
    saved = build(width=8)
    torch.save(saved.trunk.state_dict(), tmp_path / "trunk.pth")
    other = build(width=8, weights=tmp_path / "trunk.pth")
    assert torch.equal(other.trunk.blocks[0].weight, saved.trunk.blocks[0].weight)


@pytest.mark.parametrize("name", TIMM)
@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
def test_a_grey_image_gives_what_it_gave_in_colour(name, half, tmp_path):
    path, _ = saved_weights(tmp_path, name, half)
    colour, grey = create_embedder(name, weights=path), create_embedder(name, weights=path, in_chans=1)
    batch = torch.rand(2, 1, 160, 160)
    torch.testing.assert_close(grey.eval()(batch), colour.eval()(batch.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4)


def test_a_file_of_a_grey_model_fits_a_grey_model(tmp_path):
    path, state = saved_weights(tmp_path, "test_resnet", in_chans=1)
    assert torch.equal(
        create_embedder("test_resnet", weights=path, in_chans=1).trunk.conv1[0].weight, state["conv1.0.weight"]
    )


def test_a_file_of_another_model_is_an_error_that_counts_the_differences(tmp_path):
    path, _ = saved_weights(tmp_path, "test_efficientnet")
    with pytest.raises(
        ValueError, match=r"every weight of 'test_resnet'.*\d+ missing \(e\.g\. 'conv1.*\d+ foreign \(e\.g\. '"
    ):
        create_embedder("test_resnet", weights=path)


def test_a_single_missing_weight_is_an_error(tmp_path):
    path, state = saved_weights(tmp_path, "test_resnet")
    del state["bn1.running_mean"]
    save_file(state, path)
    with pytest.raises(ValueError, match=r"with 1 missing \(e\.g\. 'bn1\.running_mean'\)\."):
        create_embedder("test_resnet", weights=path)


def test_a_file_for_another_image_size_is_an_error(tmp_path):
    path, _ = saved_weights(tmp_path, "test_vit")
    with pytest.raises(ValueError, match=r"1 of another shape \(e\.g\. 'pos_embed'\).*image_size"):
        create_embedder("test_vit", weights=path, image_size=64)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_file_that_holds_no_tensors_is_an_error(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    path.write_text("an error page")
    with pytest.raises(ValueError, match="weights must be a safetensors or PyTorch file of tensors, got"):
        build(weights=path)


def test_a_missing_file_is_an_error():
    with pytest.raises(FileNotFoundError, match=r"weights must be an existing file, got 'nowhere\.pth'"):
        build(weights="nowhere.pth")


@pytest.mark.shared_data
def test_real_weights_load_whole_and_tell_photographs_apart(shared_data, tmp_path):
    path = shared_data / "weights" / "tf_efficientnet_lite0_in1k_fp16.safetensors"
    embedder = create_embedder("tf_efficientnet_lite0", weights=path, image_size=128).eval()
    state = load_file(path)
    for key, value in embedder.trunk.state_dict().items():
        torch.testing.assert_close(value, state[key].to(value.dtype), rtol=0, atol=0)

    with zipfile.ZipFile(shared_data / "cifar10_subset" / "cifar10_subset.zip") as archive:
        for kind in ("airplane", "frog", "horse"):
            members = [name for name in archive.namelist() if name.startswith(f"test/{kind}/")]
            archive.extractall(tmp_path, members[:20])
    transform = eval_transform(embedder.image_size, embedder.in_chans, embedder.mean, embedder.std)
    data = image_folder(tmp_path / "test").with_transform(transform)
    with torch.no_grad():
        embeddings = nn.functional.normalize(embedder(torch.stack([image for image, _ in data])))
    nearest = (embeddings @ embeddings.T).fill_diagonal_(-1).argmax(1)
    assert (data.labels[nearest] == data.labels).mean() > 0.9  # chance is a third


@pytest.mark.parametrize(
    ("first", "forced"),
    [
        (nn.Conv2d(3, 8, 1, stride=2), False),
        (nn.Conv2d(1, 8, 1, stride=(1, 2)), False),
        (nn.Conv2d(3, 8, 1), True),
        (nn.Conv2d(3, 8, 3, stride=2), True),
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1, stride=2)), True),
    ],
    ids=["1 x 1 with a stride", "across alone", "1 x 1", "3 x 3 with a stride", "on eight channels"],
)
def test_images_are_in_channels_last_order_but_where_backward_would_end_the_process(first, forced):
    channels = next(first.parameters()).shape[1]
    seen = []
    first.register_forward_pre_hook(lambda layer, args: seen.append(args[0].stride()[1] == 1))
    trunk = nn.Sequential(first, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    half = (0.5,) * channels
    embedder = Embedder(trunk, name="mine", in_chans=channels, image_size=8, mean=half, std=half)
    embedder(torch.zeros(2, channels, 8, 8))
    assert seen[-1] == forced


def test_a_file_of_weights_runs_nothing(tmp_path, monkeypatch):
    """Before 1.0.26 timm's own default was to run what a pickle holds."""
    torch.save({"weight": torch.zeros(2, 3)}, tmp_path / "weights.pt")
    given = []
    monkeypatch.setattr("timm.models.load_state_dict", lambda path, **options: given.append(options) or {})
    with pytest.raises(ValueError, match="every weight"):
        create_embedder("test_resnet", weights=tmp_path / "weights.pt")
    assert given == [{"weights_only": True}]
