// Run an emitted model with ONNX Runtime's C++ API alone; what goes in is written in the model.
//
//     c++ -std=c++17 -O2 samples/edge_inference.cpp -I ORT/include -L ORT/lib -lonnxruntime -o edge_inference
//     ./edge_inference runs/demo-1/model.onnx [--image photo.ppm] [--threads 2] [--out folder]
//
// ORT is the folder of an ONNX Runtime release (LD_LIBRARY_PATH=ORT/lib if it is not installed); where the system has a
// package of it, as Debian's libonnxruntime-dev, -I /usr/include/onnxruntime -lonnxruntime is enough.
//
// Without an image a test picture is drawn. The folder gets the numbers of each output as they lie in memory, TASK.bin.

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

struct Picture {
    std::int64_t height, width;
    std::vector<std::uint8_t> rgb;  // [height, width, 3]
};

struct Options {
    std::string model, image, out;
    int threads = 1;
};

// What the input must be: the part "input" of the model's metadata onnxmtl.contract.
struct Input {
    std::string name, layout, colour, dtype;
    std::vector<double> range, mean, scale;
    std::int64_t height, width;
};

// The text behind "key": in a JSON object. Enough for a file that onnxmtl wrote; a program of yours has a JSON library.
static std::string behind(const std::string& json, const std::string& key) {
    const std::size_t place = json.find("\"" + key + "\": ");
    if (place == std::string::npos) throw std::runtime_error("the contract of the model has no \"" + key + "\"");
    return json.substr(place + key.size() + 4);
}

static std::string text(const std::string& json, const std::string& key) {
    const std::string rest = behind(json, key);
    const std::size_t end = rest.empty() || rest[0] != '"' ? std::string::npos : rest.find('"', 1);
    if (end == std::string::npos) throw std::runtime_error("\"" + key + "\" of the contract is no text");
    return rest.substr(1, end - 1);
}

static double number(const std::string& json, const std::string& key) {
    return std::strtod(behind(json, key).c_str(), nullptr);
}

static std::vector<double> numbers(const std::string& json, const std::string& key) {
    const std::string rest = behind(json, key);
    std::istringstream list(rest.substr(1, rest.find(']') - 1));
    std::vector<double> found;
    for (std::string item; std::getline(list, item, ',');) found.push_back(std::strtod(item.c_str(), nullptr));
    return found;
}

static Input input_of(const Ort::Session& session) {
    Ort::AllocatorWithDefaultOptions allocator;
    const auto stored = session.GetModelMetadata().LookupCustomMetadataMapAllocated("onnxmtl.contract", allocator);
    if (!stored) throw std::runtime_error("the model has no onnxmtl.contract; give one that onnxmtl emitted");
    const std::string json = behind(stored.get(), "input");
    Input input{text(json, "name"),    text(json, "layout"),   text(json, "colour"),
                text(json, "dtype"),   numbers(json, "range"), numbers(json, "mean"),
                numbers(json, "scale"), static_cast<std::int64_t>(number(json, "height")),
                static_cast<std::int64_t>(number(json, "width"))};
    if (input.layout != "NCHW" || input.colour != "RGB" || input.dtype != "float32")
        throw std::runtime_error("this sample feeds RGB as NCHW and float32; the model wants " + input.colour + " as " +
                                 input.layout + " and " + input.dtype);
    if (input.range.size() != 2 || input.mean.size() != 3 || input.scale.size() != 3)
        throw std::runtime_error("range, mean or scale of the contract have the wrong length");
    return input;
}

// A binary PPM (P6, 8 bits).
static Picture read_ppm(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    const auto field = [&file] {
        std::string word;
        while (file >> word && word[0] == '#') std::getline(file, word);
        return word;
    };
    const std::string magic = field(), width = field(), height = field(), largest = field();
    file.get();  // the one blank before the pixels
    Picture picture{std::atol(height.c_str()), std::atol(width.c_str()), {}};
    if (magic == "P6" && largest == "255" && picture.height > 0 && picture.width > 0) {
        picture.rgb.resize(static_cast<std::size_t>(3 * picture.height * picture.width));
        file.read(reinterpret_cast<char*>(picture.rgb.data()), static_cast<std::streamsize>(picture.rgb.size()));
    }
    if (picture.rgb.empty() || !file)
        throw std::runtime_error(path + ": a binary PPM with 8 bits per channel is needed (P6, 255)");
    return picture;
}

// A wall, a floor and a box on it.
static Picture drawn_picture(std::int64_t height, std::int64_t width) {
    Picture picture{height, width, {}};
    for (std::int64_t row = 0; row < height; ++row)
        for (std::int64_t column = 0; column < width; ++column) {
            const double y = double(row) / double(height), x = double(column) / double(width), light = 1.1 - 0.4 * y;
            const double wall[] = {200, 190, 170}, floor[] = {110, 80, 60};
            const std::uint8_t box[] = {60, 90, 160};
            const bool inside = std::abs(x - 0.5) < 0.15 && std::abs(y - 0.6) < 0.2;
            for (int c = 0; c < 3; ++c)
                picture.rgb.push_back(inside ? box[c] : static_cast<std::uint8_t>((y < 0.6 ? wall : floor)[c] * light));
        }
    return picture;
}

// As the contract asks: size (the nearest pixel), range, mean, scale, layout [1, 3, height, width].
static std::vector<float> prepare(const Picture& picture, const Input& input) {
    std::vector<float> values;
    const float low = float(input.range[0]), spread = float(input.range[1] - input.range[0]);
    for (std::size_t c = 0; c < 3; ++c)
        for (std::int64_t i = 0; i < input.height; ++i)
            for (std::int64_t j = 0; j < input.width; ++j) {
                const auto row = std::int64_t((double(i) + 0.5) * double(picture.height) / double(input.height));
                const auto column = std::int64_t((double(j) + 0.5) * double(picture.width) / double(input.width));
                const float pixel = picture.rgb[std::size_t(3 * (row * picture.width + column)) + c];
                const float value = low + spread * pixel / 255.0f;
                values.push_back(float((double(value) - input.mean[c]) * input.scale[c]));
            }
    return values;
}

template <typename T>
static void describe(const T* data, std::size_t count, const char* type) {
    const auto [smallest, largest] = std::minmax_element(data, data + count);
    std::cout << type << ", " << *smallest << " to " << *largest << "\n";
}

static void tell(const std::string& name, const Ort::Value& output, const std::string& folder) {
    const auto info = output.GetTensorTypeAndShapeInfo();
    const std::size_t count = info.GetElementCount();
    std::cout << name << ": [";
    const std::vector<std::int64_t> shape = info.GetShape();
    for (std::size_t i = 0; i < shape.size(); ++i) std::cout << (i ? ", " : "") << shape[i];
    std::cout << "] ";
    std::size_t bytes = 0;
    if (info.GetElementType() == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) {
        bytes = count * sizeof(float);
        describe(output.GetTensorData<float>(), count, "float32");
    } else if (info.GetElementType() == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64) {  // class numbers
        bytes = count * sizeof(std::int64_t);
        describe(output.GetTensorData<std::int64_t>(), count, "int64");
    } else {
        throw std::runtime_error("output " + name + " is neither float32 nor int64");
    }
    if (folder.empty()) return;
    std::filesystem::create_directories(folder);
    std::ofstream file(std::filesystem::path(folder) / (name + ".bin"), std::ios::binary);
    file.write(static_cast<const char*>(output.GetTensorRawData()), static_cast<std::streamsize>(bytes));
    if (!file) throw std::runtime_error("cannot write to " + folder);
}

static void run(const Options& options) {
    Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "edge_inference");
    Ort::SessionOptions settings;
    settings.SetIntraOpNumThreads(options.threads);
    Ort::Session session(env, std::filesystem::path(options.model).c_str(), settings);
    const Input input = input_of(session);
    const Picture picture =
        options.image.empty() ? drawn_picture(input.height, input.width) : read_ppm(options.image);
    std::vector<float> values = prepare(picture, input);
    const std::vector<std::int64_t> shape{1, 3, input.height, input.width};
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    const auto image =
        Ort::Value::CreateTensor<float>(memory, values.data(), values.size(), shape.data(), shape.size());

    std::vector<std::string> names;
    Ort::AllocatorWithDefaultOptions allocator;
    for (std::size_t i = 0; i < session.GetOutputCount(); ++i)
        names.emplace_back(session.GetOutputNameAllocated(i, allocator).get());
    std::vector<const char*> asked;
    for (const std::string& name : names) asked.push_back(name.c_str());
    const char* given = input.name.c_str();
    const auto outputs = session.Run(Ort::RunOptions{nullptr}, &given, &image, 1, asked.data(), asked.size());
    for (std::size_t i = 0; i < outputs.size(); ++i) tell(names[i], outputs[i], options.out);
}

static Options parse(int count, char** words) {
    Options options;
    for (int i = 1; i < count; ++i) {
        const std::string word = words[i];
        const bool option = word.rfind("--", 0) == 0;
        if ((option && i + 1 == count) || (!option && !options.model.empty())) throw std::invalid_argument(word);
        if (!option) options.model = word;
        else if (word == "--image") options.image = words[++i];
        else if (word == "--out") options.out = words[++i];
        else if (word == "--threads") options.threads = std::max(1, std::atoi(words[++i]));
        else throw std::invalid_argument(word);
    }
    if (options.model.empty()) throw std::invalid_argument("no model");
    return options;
}

int main(int count, char** words) {
    try {
        run(parse(count, words));
        return 0;
    } catch (const std::invalid_argument& error) {
        std::cerr << "error: " << error.what()
                  << "; usage: edge_inference model.onnx [--image photo.ppm] [--threads N] [--out folder]\n";
        return 2;
    } catch (const std::exception& error) {  // Ort::Exception is one
        std::cerr << "error: " << error.what() << "\n";
        return 1;
    }
}
