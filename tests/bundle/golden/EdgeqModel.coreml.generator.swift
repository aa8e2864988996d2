// Written by edgeq for this bundle.
import CoreML
import Foundation
import Tokenizers

/// The language model: text in, text out. One answer at a time; it runs off the main thread by itself.
///
///     let model = try await EdgeqModel.open()
///     let answer = try await model.generate("Once upon a time", maxNewTokens: 64)
@available(iOS 18.0, macOS 15.0, *)
final class EdgeqModel {
    static let contextLength = 64
    static let vocabulary = 8
    private static let endOfText: Set<Int> = [1]

    /// Two functions of one package: they share the weights, and the state holds the cache of both.
    private let prefill: MLModel
    private let decode: MLModel
    private let chunk: Int
    private var loadedTokenizer: (any Tokenizer)?

    private init(prefill: MLModel, decode: MLModel, chunk: Int) {
        self.prefill = prefill
        self.decode = decode
        self.chunk = chunk
    }

    /// Check the memory and load the model. The first time the package is compiled, which takes a while.
    static func open() async throws -> EdgeqModel {
        try EdgeqBundle.checkMemory()
        let prefill = try await EdgeqCoreML.load(function: "prefill")
        let decode = try await EdgeqCoreML.load(function: "decode")
        let chunk = try EdgeqCoreML.length(of: prefill, input: "input_ids", count: 1)
        return EdgeqModel(prefill: prefill, decode: decode, chunk: chunk)
    }

    /// The most likely continuation of `prompt`.
    func generate(_ prompt: String, maxNewTokens: Int) async throws -> String {
        let tokenizer = try await tokenizer()
        let ids = tokenizer.encode(text: prompt)
        return tokenizer.decode(tokens: try await continuation(of: ids, maxNewTokens: maxNewTokens))
    }

    /// The same in token ids. `onToken` sees each new token and returns false to stop.
    func continuation(
        of prompt: [Int], maxNewTokens: Int, onToken: (Int) -> Bool = { _ in true }
    ) async throws -> [Int] {
        guard !prompt.isEmpty, maxNewTokens > 0 else { throw EdgeqError.length("there is nothing to do") }
        guard prompt.count + maxNewTokens <= Self.contextLength else {
            throw EdgeqError.length("longer than \(Self.contextLength) tokens")
        }
        let state = prefill.makeState()
        var logits = try await read(prompt, into: state)
        var produced: [Int] = []
        while true {
            let token = Self.best(logits)
            if Self.endOfText.contains(token) { return produced }
            produced.append(token)
            if !onToken(token) || produced.count == maxNewTokens { return produced }
            logits = try await step(token, at: prompt.count + produced.count - 1, state)
        }
    }

    /// Compare this device with golden/golden.json. Empty: it computes what the model should.
    func smokeTest() async throws -> [String] {
        let golden = try EdgeqBundle.golden()
        if golden.cases.isEmpty { return ["there is nothing to compare with: it was exported without validation"] }
        var complaints: [String] = []
        for (index, example) in golden.cases.enumerated() {
            let logits = try await read(example.inputIds, into: prefill.makeState())
            complaints += golden.complaints(index: index, logits: logits)
        }
        return complaints
    }

    /// Put a text into the cache in chunks of a fixed length; the logits are those after its last token.
    private func read(_ prompt: [Int], into state: MLState) async throws -> [Float] {
        var logits: [Float] = []
        var position = 0
        while position < prompt.count {
            let count = min(prompt.count - position, chunk)
            // A chunk writes all of its positions: near the end of the cache, and for a single token, it does not fit.
            if count == 1 || position + chunk > Self.contextLength {
                logits = try await step(prompt[position], at: position, state)
                position += 1
                continue
            }
            let padding = [Int](repeating: 0, count: chunk - count)
            let inputs = [
                "input_ids": EdgeqCoreML.row(Array(prompt[position..<position + count]) + padding),
                "position": EdgeqCoreML.scalar(position),
                // Padding comes after the last token, which does not see it, and is overwritten by the next one.
                "last": EdgeqCoreML.scalar(count - 1),
            ]
            let output = try await prefill.prediction(from: EdgeqCoreML.features(inputs), using: state)
            logits = try EdgeqCoreML.floats(output, "logits")
            position += count
        }
        return logits
    }

    /// One token at its position; the logits after it.
    private func step(_ token: Int, at position: Int, _ state: MLState) async throws -> [Float] {
        let inputs = ["input_ids": EdgeqCoreML.row([token]), "position": EdgeqCoreML.scalar(position)]
        let output = try await decode.prediction(from: EdgeqCoreML.features(inputs), using: state)
        return try EdgeqCoreML.floats(output, "logits")
    }

    private func tokenizer() async throws -> any Tokenizer {
        if let loadedTokenizer { return loadedTokenizer }
        let folder = try EdgeqBundle.directory().appending(path: "tokenizer")
        let tokenizer = try await AutoTokenizer.from(modelFolder: folder, strict: false)
        loadedTokenizer = tokenizer
        return tokenizer
    }

    private static func best(_ logits: [Float]) -> Int {
        var best = 0
        for token in logits.indices where logits[token] > logits[best] { best = token }
        return best
    }
}
