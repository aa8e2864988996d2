// Written by edgeq for this bundle.
import ExecuTorch
import ExecuTorchLLM
import Foundation

/// The language model: text in, text out. Not thread safe: the actor keeps it to one answer at a time.
///
///     let model = try EdgeqModel()
///     let answer = try await model.generate("Once upon a time", maxNewTokens: 64)
actor EdgeqModel {
    static let contextLength = 64
    static let vocabulary = 8
    private static let path = "model/model.pte"

    /// Begin-of-text tokens before a prompt; the runner adds none by itself.
    private static let beginCount = 0
    private static let endTexts: Set<String> = ["</s>"]

    private let model: String
    private let runner: TextRunner

    /// Check the memory; the model is loaded at the first prompt.
    init() throws {
        try EdgeqBundle.checkMemory()
        let directory = try EdgeqBundle.directory()
        model = directory.appending(path: Self.path).path
        runner = TextRunner(
            modelPath: model, tokenizerPath: directory.appending(path: "tokenizer/tokenizer.json").path)
    }

    /// The most likely continuation of `prompt`. `onText` sees each new piece of text and returns false to stop.
    func generate(
        _ prompt: String, maxNewTokens: Int, onText: (String) -> Bool = { _ in true }
    ) throws -> String {
        guard maxNewTokens > 0 else { throw EdgeqError.length("there is nothing to do") }
        var answer = ""
        let config = Config {
            $0.isEchoEnabled = false
            $0.temperature = 0
            $0.bosCount = Self.beginCount
            $0.sequenceLength = Self.contextLength
            $0.maximumNewTokens = maxNewTokens
        }
        runner.reset()
        try withoutActuallyEscaping(onText) { onText in
            try runner.generate(prompt, config) { piece in
                // The runner also hands over the text of the token that ends the answer.
                if Self.endTexts.contains(piece) { return }
                answer += piece
                if !onText(piece) { self.runner.stop() }
            }
        }
        return answer
    }

    /// Compare this device with golden/golden.json. Empty: it computes what the model should.
    func smokeTest() throws -> [String] {
        let golden = try EdgeqBundle.golden()
        if golden.cases.isEmpty { return ["there is nothing to compare with: it was exported without validation"] }
        let module = Module(filePath: model, loadMode: .mmap)
        var complaints: [String] = []
        for (index, example) in golden.cases.enumerated() {
            // Positions from 0: the cache is overwritten from its beginning.
            let tokens = Tensor<Int>(example.inputIds, shape: [1, example.inputIds.count])
            let positions = Tensor<Int>(Array(0..<example.inputIds.count), shape: [example.inputIds.count])
            let logits = try Tensor<Float>(module.forward([tokens, positions])).scalars()
            complaints += golden.complaints(index: index, logits: Array(logits.suffix(Self.vocabulary)))
        }
        return complaints
    }
}
