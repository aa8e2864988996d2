// Written by edgeq for the bundle "@NAME@".
import Foundation
import os

enum EdgeqError: Error {
    case missing(String)
    case memory(required: Int, available: Int)
    case length(String)
    case output(String)
}

/// The bundle's files in the app, and whether the system has memory for them now.
enum EdgeqBundle {
    static let name = "@NAME@"

    /// Names the contents: what was compiled from an older bundle is not used for this one.
    static let version = "@VERSION@"

    /// Memory that must be available before the model is loaded: @REQUIRED_TEXT@.
    static let requiredBytes = @REQUIRED_BYTES@

    /// The folder that Xcode copied into the app.
    static func directory() throws -> URL {
        guard let directory = Bundle.main.resourceURL?.appending(path: "@FOLDER@"),
            FileManager.default.fileExists(atPath: directory.path)
        else { throw EdgeqError.missing("@FOLDER@ is not in the app: add it as a folder, not as a group") }
        return directory
    }

    /// Throw where the system would end the app for loading the model.
    static func checkMemory() throws {
        #if os(iOS) && !targetEnvironment(simulator) && !targetEnvironment(macCatalyst)
        let available = Int(os_proc_available_memory())
        guard available >= requiredBytes else {
            throw EdgeqError.memory(required: requiredBytes, available: available)
        }
        #endif
    }

    /// golden/golden.json, for the smoke test.
    static func golden() throws -> EdgeqGolden {
        let data = try Data(contentsOf: directory().appending(path: "golden/golden.json"))
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        return try decoder.decode(EdgeqGolden.self, from: data)
    }
}

/// Inputs with the outputs of the same weights in float arithmetic.
struct EdgeqGolden: Decodable {
    struct Case: Decodable {
        let inputIds: [Int]
        let topIds: [Int]?
        let topLogits: [Double]?
        let embedding: [Float]?
    }

    let tolerance: Double
    let cases: [Case]

    /// What is wrong with the logits after a case's last token; empty where nothing is.
    func complaints(index: Int, logits: [Float]) -> [String] {
        guard let top = cases[index].topIds, let expected = cases[index].topLogits else {
            return ["case \(index) has no logits"]
        }
        var complaints: [String] = []
        let best = logits.indices.max { logits[$0] < logits[$1] } ?? -1
        if !top.contains(best) { complaints.append("case \(index): token \(best) is not among the best") }
        for (token, value) in zip(top, expected) {
            let difference = abs(Double(logits[token]) - value)
            // Written so that NaN complains too.
            if !(difference <= tolerance) {
                complaints.append("case \(index): logit of \(token) is off by \(difference)")
            }
        }
        return complaints
    }

    /// The same for an encoder's output.
    func complaints(index: Int, vector: [Float]) -> [String] {
        guard let expected = cases[index].embedding else { return ["case \(index) has no vector"] }
        let distance = 1 - Self.cosine(vector, expected)
        return distance <= tolerance ? [] : ["case \(index): 1 - cosine is \(distance)"]
    }

    /// How alike two vectors are, from -1 to 1. A longer `a` is read as far as `b` goes.
    static func cosine(_ a: [Float], _ b: [Float]) -> Double {
        var (product, lengthA, lengthB) = (0.0, 0.0, 0.0)
        for (x, y) in zip(a, b) {
            product += Double(x) * Double(y)
            lengthA += Double(x) * Double(x)
            lengthB += Double(y) * Double(y)
        }
        return product / (lengthA * lengthB).squareRoot()
    }
}
