// Written by edgeq for this bundle.
import CoreML
import Foundation
import Tokenizers

/// The encoder: text in, a vector out. It runs off the main thread by itself.
///
///     let model = try await EdgeqModel.open()
///     let vector = try await model.encode("A cat sleeps.")
@available(iOS 18.0, macOS 15.0, *)
final class EdgeqModel {
    static let contextLength = 64
    private static let inputs = ["input_ids", "attention_mask"]
    private static let output = "sentence_embedding"

    /// Whether the model gives one vector per text; else it gives one per token.
    private static let pooled = true

    private let model: MLModel
    private var loadedTokenizer: (any Tokenizer)?

    private init(model: MLModel) {
        self.model = model
    }

    /// Check the memory and load the model. The first time the package is compiled, which takes a while.
    static func open() async throws -> EdgeqModel {
        try EdgeqBundle.checkMemory()
        return EdgeqModel(model: try await EdgeqCoreML.load())
    }

    /// The vector of one text. A model that does not pool gives the hidden states of all tokens in a row.
    func encode(_ text: String) async throws -> [Float] {
        try await encode(ids: tokenizer().encode(text: text))
    }

    /// The same for token ids, the tokenizer's special tokens among them.
    func encode(ids: [Int]) async throws -> [Float] {
        guard !ids.isEmpty, ids.count <= Self.contextLength else {
            throw EdgeqError.length("\(ids.count) tokens; 1 to \(Self.contextLength) are possible")
        }
        let length = try EdgeqCoreML.length(of: model, input: "input_ids", count: ids.count)
        let padding = [Int](repeating: 0, count: length - ids.count)
        let values = [
            "input_ids": ids + padding,
            "attention_mask": [Int](repeating: 1, count: ids.count) + padding,
            "token_type_ids": [Int](repeating: 0, count: length),
        ]
        let rows = values.filter { Self.inputs.contains($0.key) }.mapValues { EdgeqCoreML.row($0) }
        let output = try await model.prediction(from: EdgeqCoreML.features(rows))
        let numbers = try EdgeqCoreML.floats(output, Self.output)
        // Rows of the padding are at the end.
        return Self.pooled ? numbers : Array(numbers.prefix(numbers.count / length * ids.count))
    }

    /// Compare this device with golden/golden.json. Empty: it computes what the model should.
    func smokeTest() async throws -> [String] {
        let golden = try EdgeqBundle.golden()
        if golden.cases.isEmpty { return ["there is nothing to compare with: it was exported without validation"] }
        var complaints: [String] = []
        for (index, example) in golden.cases.enumerated() {
            complaints += golden.complaints(index: index, vector: try await encode(ids: example.inputIds))
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
