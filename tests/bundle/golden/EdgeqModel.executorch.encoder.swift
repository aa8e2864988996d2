// Written by edgeq for this bundle.
import ExecuTorch
import Foundation
import Tokenizers

/// The encoder: text in, a vector out. Not thread safe: the actor keeps it to one text at a time.
///
///     let model = try EdgeqModel()
///     let vector = try await model.encode("A cat sleeps.")
actor EdgeqModel {
    static let contextLength = 64
    private static let inputs = ["input_ids", "attention_mask"]
    private static let path = "model/model.pte"

    private let module: Module
    private var loadedTokenizer: (any Tokenizer)?

    /// Check the memory and load the model.
    init() throws {
        try EdgeqBundle.checkMemory()
        // Mapped, not read: then the file costs no dirty memory, only what XNNPACK packs from it does.
        module = Module(filePath: try EdgeqBundle.directory().appending(path: Self.path).path, loadMode: .mmap)
        try module.load("forward")
    }

    /// The vector of one text. A model that does not pool gives the hidden states of all tokens in a row.
    func encode(_ text: String) async throws -> [Float] {
        try await encode(ids: tokenizer().encode(text: text))
    }

    /// The same for token ids, the tokenizer's special tokens among them.
    func encode(ids: [Int]) throws -> [Float] {
        guard !ids.isEmpty, ids.count <= Self.contextLength else {
            throw EdgeqError.length("\(ids.count) tokens; 1 to \(Self.contextLength) are possible")
        }
        let tensors = Self.inputs.map { name in
            let values: [Int]
            switch name {
            case "input_ids": values = ids
            case "attention_mask": values = [Int](repeating: 1, count: ids.count)
            default: values = [Int](repeating: 0, count: ids.count)  // token_type_ids
            }
            return Tensor<Int>(values, shape: [1, ids.count])
        }
        return try Tensor<Float>(module.forward(tensors)).scalars()
    }

    /// Compare this device with golden/golden.json. Empty: it computes what the model should.
    func smokeTest() throws -> [String] {
        let golden = try EdgeqBundle.golden()
        if golden.cases.isEmpty { return ["there is nothing to compare with: it was exported without validation"] }
        var complaints: [String] = []
        for (index, example) in golden.cases.enumerated() {
            complaints += golden.complaints(index: index, vector: try encode(ids: example.inputIds))
        }
        return complaints
    }

    private func tokenizer() async throws -> any Tokenizer {
        if let loadedTokenizer { return loadedTokenizer }
        let folder = try EdgeqBundle.directory().appending(path: "tokenizer")
        let tokenizer = try await AutoTokenizer.from(modelFolder: folder, strict: false)
        loadedTokenizer = tokenizer
        return tokenizer
    }
}
